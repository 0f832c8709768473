"""Which rows tombstones take out, in the words of each library that reads the tables.

Knows columns, nothing of files. Invariants: a value that somebody gave is never part of SQL but as a quoted literal; a
row of which a column is null is not taken out for that column; every library takes out the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cfbus.store.manifest_rows import Tombstone

if TYPE_CHECKING:
    import polars
    import pyarrow
    import pyarrow.compute

COLUMNS = ("contributor_id", "key", "worker", "item_key", "shard", "image_sha256", "reason", "fault")
"""What a tombstone may name; of `failures` some are missing, of `captions` others."""
NO_END = 1 << 62
"""``until`` of one that is over what comes later, too."""


def over(tombstones: Iterable[Tombstone], table: str) -> list[Tombstone]:
    """Those that take rows out of a table."""
    return [one for one in tombstones if one.holds and table in one.tables]


def needed(tombstones: Sequence[Tombstone]) -> list[str]:
    """The columns that decide."""
    named = {name for one in tombstones for name, _ in one.columns}
    return sorted({*named, "commit_seq", "timestamp"}) if tombstones else []


def expression(tombstones: Sequence[Tombstone]) -> pyarrow.compute.Expression | None:
    """For pyarrow; None when nothing is taken out."""
    import pyarrow.compute as pc

    return pc.coalesce(reduce(or_, map(_expression, tombstones)), pc.scalar(False)) if tombstones else None


def _expression(one: Tombstone) -> pyarrow.compute.Expression:
    import pyarrow as pa
    import pyarrow.compute as pc

    from cfbus.store.schema import TIME

    parts = [
        pc.field(name) == (pa.scalar(bytes.fromhex(value), pa.binary(32)) if name == "image_sha256" else value)
        for name, value in one.columns
    ]
    parts.append(pc.field("commit_seq") <= one.until)
    if one.since:
        parts.append(pc.field("timestamp") >= pa.scalar(one.since, TIME))
    return reduce(and_, parts)


def taken(tombstones: Sequence[Tombstone], rows: pyarrow.Table) -> npt.NDArray[np.bool_]:
    """For each row whether it is taken out."""
    import pyarrow.dataset as ds

    gone = expression(tombstones)
    if gone is None or rows.num_rows == 0:
        return np.zeros(rows.num_rows, np.bool_)
    found: npt.NDArray[np.bool_] = ds.dataset(rows).to_table(columns={"gone": gone})["gone"].to_numpy()
    return found


def sql(tombstones: Sequence[Tombstone]) -> str:
    """For duckdb: a condition that is true for what is taken out, and never null; empty when nothing is."""
    return " OR ".join(f"coalesce({_sql(one)}, false)" for one in tombstones)


def _sql(one: Tombstone) -> str:
    parts = [f"{name} = {_literal(name, value)}" for name, value in one.columns if name in COLUMNS]
    parts.append(f"commit_seq <= {one.until:d}")
    if one.since:
        parts.append(f"timestamp >= make_timestamptz({one.since:d})")
    return f"({' AND '.join(parts)})"


def _literal(name: str, value: str) -> str:
    if name == "image_sha256":
        return f"from_hex('{bytes.fromhex(value).hex()}')"
    return "'" + value.replace("'", "''") + "'"


def polars_expression(tombstones: Sequence[Tombstone]) -> polars.Expr | None:
    """For polars; None when nothing is taken out."""
    return reduce(or_, map(_polars, tombstones)).fill_null(value=False) if tombstones else None


def _polars(one: Tombstone) -> polars.Expr:
    import polars as pl

    parts = []
    for name, value in one.columns:
        column = pl.col(name)
        parts.append(
            column == pl.lit(bytes.fromhex(value))
            if name == "image_sha256"
            else column.cast(pl.String) == pl.lit(value)
        )
    parts.append(pl.col("commit_seq") <= one.until)
    if one.since:
        parts.append(pl.col("timestamp").dt.epoch("us") >= one.since)
    return reduce(and_, parts)
