"""A store compared with itself: manifest, segments, listing, journal, and the ledger of its broker. Changes nothing.

Must not know who asks. With the store's lock all is compared; while a writer holds it, what never changes once it is
there: segments and listing.

Invariant: every difference is told, none ends the comparison but a manifest that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cfbus.errors import CfbusError, DamagedStoreError
from cfbus.store.durable import disk_errors
from cfbus.store.folder import Store
from cfbus.store.ledger import facts_of
from cfbus.store.listing import read_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import SegmentRow
from cfbus.store.salvage import inspect

TABLES = ("captions", "failures")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. ``mends``: what puts it right, ``ledger`` where `--fix` can."""

    where: str
    what: str
    mends: str


def compare(store: Store, broker_dir: Path | None, *, locked: bool) -> list[Finding]:
    """All differences. Raises ``DamagedStoreError`` where the manifest itself cannot be read."""
    with closing(Manifest.open(store)) as manifest:
        found = [*_segments(store, manifest), *_listing(store, manifest)]
        end = manifest.last_position()
        if locked:
            found += _strangers(store, manifest)
            inspected = inspect(store, manifest)
            end = max([end, *(each.last for each in inspected)])
            for each in inspected:
                if each.problem or each.gap is not None:
                    what = each.problem or f"positions {each.gap} before it are nowhere"
                    found.append(Finding(str(each.path), what, "a backup, or cfbus journal salvage"))
    return found + (_ledger(store, broker_dir, end, exact=locked) if broker_dir is not None else [])


def _segments(store: Store, manifest: Manifest) -> Iterator[Finding]:
    for segment in manifest.segments():
        for name in segment.files:
            problem = _problem_of(store.root / name, _rows_of(segment, name))
            if problem:
                yield Finding(name, problem, "a backup of this file")


def _rows_of(segment: SegmentRow, name: str) -> int:
    return segment.failures if Path(name).parts[0] == "failures" else segment.rows


def _problem_of(path: Path, rows: int) -> str:
    try:
        with disk_errors(path), pq.ParquetFile(path) as file:
            there = file.metadata.num_rows
    except FileNotFoundError:
        return "the manifest lists it, and it is not there"
    except (OSError, pa.ArrowException, CfbusError) as error:
        return str(error).splitlines()[0]
    return "" if there == rows else f"it has {there} rows, the manifest says {rows}"


def _strangers(store: Store, manifest: Manifest) -> Iterator[Finding]:
    known = {name for segment in manifest.segments() for name in segment.files} | manifest.spare()
    unsealed = {each.first for each in inspect(store, manifest)}
    for table in TABLES:
        folder = store.table_path(table)
        for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else ():
            name = str(path.relative_to(store.root))
            if name not in known and not (path.stem.isdecimal() and int(path.stem) in unsealed):
                yield Finding(name, "the manifest does not know it", "a backup of the manifest, or move the file away")


def _listing(store: Store, manifest: Manifest) -> Iterator[Finding]:
    for shard in manifest.shards():
        try:
            rows = read_listing(store, shard.number, 0, shard.length + 1).rows
        except DamagedStoreError as error:
            yield Finding(f"listing of {shard.name}", str(error), "a backup of this file")
            continue
        if rows != shard.length:
            what = f"it has {rows} items, the manifest says {shard.length}"
            yield Finding(f"listing of {shard.name}", what, "a backup of this file")


def _ledger(store: Store, folder: Path, end: int, *, exact: bool) -> list[Finding]:
    try:
        facts = facts_of(folder)
    except CfbusError as error:
        return [Finding("ledger", str(error), "ledger")]
    if facts is None or not facts[0]:
        return []
    store_id, position = facts
    if store_id != store.store_id:
        return [Finding("ledger", f"it is of store {store_id}, this one is {store.store_id}", "ledger")]
    if exact and position > end:
        what = f"the broker acknowledged position {position}, and the store ends at {end}: captions are lost"
        return [Finding("ledger", what, "a backup of the store; then start the broker once with --accept-loss")]
    return []
