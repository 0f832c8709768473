"""A store compared with itself: manifest, segments, listing, journal, and the ledger of its broker. Changes nothing.

Must not know who asks. Beside a writer the journal is looked at again when anything else than new frames came to it
meanwhile: a file that was begun, closed, sealed or taken away, or a log that was copied into its file.

Invariant: every difference is told, none ends the comparison but a manifest that cannot be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cfbus.errors import CfbusError, DamagedStoreError
from cfbus.store.durable import disk_errors
from cfbus.store.folder import Store
from cfbus.store.journal import SALVAGING
from cfbus.store.ledger import facts_of
from cfbus.store.listing import read_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import SegmentRow
from cfbus.store.salvage import Inspected, examine, inspect

TABLES = ("captions", "failures")
LOOKS = 5
"""So often the journal of a writer is looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. ``mends``: what puts it right, ``ledger`` where `--fix` can."""

    where: str
    what: str
    mends: str


@dataclass(frozen=True, slots=True)
class Compared:
    """All differences, and the last position. ``whole``: the journal and what nobody knows were looked at, too."""

    findings: list[Finding]
    whole: bool
    end: int


def compare(store: Store, broker_dir: Path | None, *, locked: bool) -> Compared:
    """All differences. Raises ``DamagedStoreError`` where the manifest itself cannot be read."""
    # Before the store: what the broker acknowledges meanwhile is no difference.
    acknowledged = _acknowledged(broker_dir) if broker_dir is not None else None
    with closing(Manifest.open(store)) as manifest:
        found = [*_segments(store, manifest), *_listing(store, manifest)]
        end = manifest.last_position()
    looked = _locked(store) if locked else _beside_a_writer(store)
    if looked is not None:
        found += looked[0]
        end = looked[1]
    if isinstance(acknowledged, Finding):
        found.append(acknowledged)
    elif acknowledged is not None:
        found += _ledger(store, acknowledged, end, exact=looked is not None)
    return Compared(found, looked is not None, end)


Looked = tuple[list[Finding], int]
"""What differs of the journal and the tables, and the last position."""


def _locked(store: Store) -> Looked:
    with closing(Manifest.open(store)) as manifest:
        return _journal(store, manifest, inspect(store, manifest))


def _beside_a_writer(store: Store) -> Looked | None:
    """None when the journal was another each time, or may not be copied by whoever asks."""
    if not os.access(store.staging_dir, os.W_OK):
        return None
    for _ in range(LOOKS):
        before = _shape(store)
        with closing(Manifest.open(store)) as manifest:
            looked = _journal(store, manifest, examine(store, manifest))
        if before is not None and _shape(store) == before:
            return looked
    return None


def _shape(store: Store) -> object:
    """Is the same before and after when nothing but frames came meanwhile; None when that cannot be said."""
    if (store.journal_dir / SALVAGING).exists():
        return None
    try:
        found = [(path.name, path.stat()) for path in sorted(store.journal_dir.glob("*.sqlite"))]
    except FileNotFoundError:
        return None
    files = [(name, facts.st_ino, facts.st_size, facts.st_mtime_ns) for name, facts in found]
    with closing(Manifest.open(store)) as manifest:
        return files, manifest.shard_count(), len(manifest.passes()), manifest.segments(), manifest.spare()


def _journal(store: Store, manifest: Manifest, inspected: list[Inspected]) -> Looked:
    found = list(_strangers(store, manifest, {each.first for each in inspected}))
    for each in inspected:
        if each.problem or each.gap is not None:
            what = each.problem or f"positions {each.gap} before it are nowhere"
            found.append(Finding(str(each.path), what, "a backup, or cfbus journal salvage"))
    return found, max([manifest.last_position(), *(each.last for each in inspected)])


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


def _strangers(store: Store, manifest: Manifest, unsealed: set[int]) -> Iterator[Finding]:
    known = {name for segment in manifest.segments() for name in segment.files} | manifest.spare()
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


def _acknowledged(folder: Path) -> tuple[str, int] | Finding | None:
    """The store and position that the ledger knows, or why it does not tell; None when it knows nothing."""
    try:
        facts = facts_of(folder)
    except CfbusError as error:
        return Finding("ledger", str(error), "ledger")
    return facts if facts is not None and facts[0] else None


def _ledger(store: Store, acknowledged: tuple[str, int], end: int, *, exact: bool) -> list[Finding]:
    store_id, position = acknowledged
    if store_id != store.store_id:
        return [Finding("ledger", f"it is of store {store_id}, this one is {store.store_id}", "ledger")]
    return [lost(position, end)] if exact and position > end else []


def lost(position: int, end: int) -> Finding:
    """The store ends before what was acknowledged."""
    what = f"the broker acknowledged position {position}, and the store ends at {end}: captions are lost"
    return Finding("ledger", what, "a backup of the store; then start the broker once with --accept-loss")
