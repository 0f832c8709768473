"""Which rows of a table a later pass replaced: of rows with the same key all but that of the highest revision.

Works on the key columns alone, in numpy. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_, or_

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cfbus.store import tombstones
from cfbus.store.manifest_rows import Tombstone

Bits = npt.NDArray[np.bool_]


def replaced(rows: pa.Table) -> Bits:
    """For each row of a table of key columns and ``revision`` whether another has its key and a higher revision."""
    if rows.num_rows == 0:
        return np.zeros(0, np.bool_)
    keys = [_codes(rows[name]) for name in rows.column_names if name != "revision"]
    revision = rows["revision"].to_numpy()
    order = np.lexsort((revision, *keys))
    ends = np.ones(len(order), np.bool_)  # the last of each key has its highest revision
    ends[:-1] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    key_of_row = np.concatenate(([0], ends[:-1].cumsum()))
    gone = np.zeros(len(order), np.bool_)
    gone[order] = revision[order] < revision[order[ends]][key_of_row]
    return gone


def not_counting(rows: pa.Table, keys: Sequence[str], over: Sequence[Tombstone]) -> Bits:
    """For each row of a table whether a tombstone takes it out, or one that counts replaces it; ``keys`` without
    ``revision``, none where no rows can meet."""
    gone = tombstones.taken(over, rows)
    if keys:
        left = (~gone).nonzero()[0]
        gone[left] = replaced(rows.select([*keys, "revision"]).take(pa.array(left)))
    return gone


def condition(rows: pa.Table) -> pc.Expression | None:
    """What holds for the replaced rows and for no other; None when there are none.

    Its size goes with the number of places (shards, slots, revisions) that have such rows, and with the rows where they
    are not in a row.
    """
    gone = rows.filter(pa.array(replaced(rows)))
    if gone.num_rows == 0:
        return None
    places = [name for name in gone.column_names if name != "item_index"]
    index = gone["item_index"].to_numpy()
    codes = [_codes(gone[name]) for name in places]
    order = np.lexsort((index, *codes))
    breaks = np.zeros(len(order) - 1, np.bool_)
    for code in codes:
        breaks |= np.diff(code[order]) != 0
    starts = np.concatenate(([0], breaks.nonzero()[0] + 1))
    words = gone.select(places).take(pa.array(order[starts])).to_pylist()
    found = []
    for place, items in zip(words, np.split(index[order], starts[1:]), strict=True):
        here = [pc.field(name) == value for name, value in place.items()]
        found.append(reduce(and_, [*here, _among(items)]))
    return _any_of(found)


def _among(items: npt.NDArray[np.int64]) -> pc.Expression:
    """Ascending items: as a range where they are one, else one by one."""
    field = pc.field("item_index")
    if int(items[-1]) - int(items[0]) < len(items):
        return (field >= int(items[0])) & (field <= int(items[-1]))
    return field.isin(pa.array(items))


def _any_of(conditions: list[pc.Expression]) -> pc.Expression:
    """In halves, so that it is deep only as a logarithm of their number."""
    if len(conditions) <= 2:
        return reduce(or_, conditions)
    half = len(conditions) // 2
    return _any_of(conditions[:half]) | _any_of(conditions[half:])


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries().combine_chunks().indices
    return np.asarray(column.to_numpy(), np.int64)
