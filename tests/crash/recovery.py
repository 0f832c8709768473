"""The product takes up what a power cut left, and goes on; what must hold then.

- What was acknowledged before the cut is there once, with the bytes that were sent and the position that was told.
- What is there was sent.
- Taking it up again finds the same.
- A reader of the tables sees whole files without doubles, before and after.
- When the workers send all again, the store holds all of it, once, and nothing is left lying about.
- The broker knows its keys, and does not take the store for one that went backwards.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from crash.cuts import Cut, Facts
from crash.rig import BROKER, STORE, BrokerRig, WriterRig
from crash.sample import PARTS, PASSES, SHARDS, Part, Row

import cfbus
from cfbus.store.compaction import compact
from cfbus.store.folder import Store
from cfbus.store.manifest_rows import merge_ranges

Files = Callable[[Path, str], list[Path]]
"""The files of a table."""
Place = tuple[int, int, int]
"""Pass, shard, item."""


def owners(parts: tuple[Part, ...]) -> dict[Place, Part]:
    """Which part each item comes from: the first that has it."""
    found: dict[Place, Part] = {}
    for part in parts:
        for index in range(part.start, part.end):
            found.setdefault((part.pass_number, part.shard, index), part)
    return found


OWNERS = owners(PARTS)
_NUMBERS = {name: number for number, (name, _) in enumerate(SHARDS)}
_ROWS: dict[Row, Part] = {
    row: part for part in PARTS for row in part.rows() if OWNERS[row[2], _NUMBERS[row[0]], row[1]] is part
}
"""All rows that there will ever be."""


def recover(cut: Cut, root: Path, files: Files | None = None) -> None:
    """Lay the image out, recover, go on, and see that everything holds. ``files``: of what a reader reads."""
    cut.lay_out(root)
    known = cut.known
    seen = look(root, files)
    strangers = [row for row in seen if _ROWS[row].number not in cut.sent]
    assert not strangers, f"rows that nobody had sent: {strangers[:3]}"
    broker = BrokerRig(root)
    try:
        _check_keys(broker, known)
        first = _take_up(root, known)
        assert _take_up(root, known) == first, "taking it up twice finds something else"
        store_id, position = _go_on(root, known)
        assert not broker.greet(store_id, first[0]), "the broker takes the store for one that went backwards"
        broker.follow(store_id, position)
        broker.enrol("cyd")
    finally:
        broker.close()
    _check_end(root, known, files)


def recover_compacted(cut: Cut, root: Path) -> None:
    """The same for readers by the manifest; and after another compaction a glob is exact again."""
    recover(cut, root, by_manifest)
    compact(Store.peek(root / STORE), time.time_ns(), 0)
    assert look(root) == look(root, by_manifest)
    _check_end(root, cut.known)
    assert not list((root / STORE / "compacting").iterdir()), "a compaction left something"
    WriterRig(root).close()


def by_glob(root: Path, table: str) -> list[Path]:
    """All files of a table."""
    return sorted((root / STORE / table).glob("*.parquet"))


def by_manifest(root: Path, table: str) -> list[Path]:
    """Those that the manifest names; none before there is a store."""
    if not (root / STORE / "store.json").exists():
        return []
    view = cfbus.open(root / STORE)
    return [Path(path) for path in (view if table == "captions" else view.failures).files()]


def look(root: Path, files: Files | None = None, sent: Container[Row] = _ROWS) -> dict[Row, int]:
    """What a reader sees: rows and their positions, none twice, all as they were sent."""
    rows: Counter[Row] = Counter()
    positions: dict[Row, int] = {}
    for table in ("captions", "failures"):
        for path in (files or by_glob)(root, table):
            for row, position in rows_of(table, path.read_bytes()):
                rows[row] += 1
                positions[row] = position
    doubles = [row for row, count in rows.items() if count > 1]
    assert not doubles, f"{len(doubles)} rows are there twice, such as {doubles[:3]}"
    wrong = [row for row in rows if row not in sent]
    assert not wrong, f"{len(wrong)} rows are not as they were sent, such as {wrong[:3]}"
    return positions


@lru_cache(maxsize=512)
def rows_of(table: str, content: bytes) -> list[tuple[Row, int]]:
    words = ("slot", "caption") if table == "captions" else ("detail",)
    wanted = ["shard", "item_index", "revision", "commit_seq", *words]
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        read = file.read(columns=wanted, use_threads=False)
    return [
        ((shard, index, revision, texts[0] if len(texts) > 1 else "", texts[-1]), position)
        for shard, index, revision, position, *texts in zip(*(read[name].to_pylist() for name in wanted), strict=True)
    ]


def _check_keys(broker: BrokerRig, known: Facts) -> None:
    states = {row.name: str(row.state) for row in list(broker.registry.keys())}
    for name, state in known.keys.items():
        assert name in states, f"the key of {name} is gone"
        # A later change that nobody was told of may be there or not.
        assert states[name] == state or state == "active", f"the key of {name} is {states[name]}, and was {state}"


def _take_up(root: Path, known: Facts) -> tuple[int, list[list[int]], dict[str, int]]:
    """Open as the daemon does and look whether what was acknowledged is there."""
    writer = WriterRig(root)
    try:
        last = max(known.acked.values(), default=0)
        assert writer.journal.position >= last, f"the store ends at {writer.journal.position}, {last} was acked"
        assert writer.manifest.shard_count() >= known.shards, "a shard is gone"
        assert len(writer.manifest.passes()) >= known.passes, "a pass is gone"
        redos = {row.redo.tombstone: row for row in writer.manifest.passes() if row.redo is not None}
        stones = [one.number for one in writer.manifest.tombstones()]
        assert sorted(redos) == stones, "a tombstone is there without its redo, or the other way round"
        assert len(stones) >= known.amended, "what an admin had changed is gone"
        for row in redos.values():
            assert writer.manifest.selected(row.number).tolist() == [[0, 1, 3], [1, 0, 1]]
        done = writer.core.inventory.done()
        for part in (part for part in PARTS if part.number in known.acked):
            pairs = done.get((part.pass_number, part.shard), ())
            assert any(a <= part.start and part.end <= b for a, b in pairs), f"{part} was acked and is not there"
        ranges = merge_ranges([*writer.manifest.done(), *writer.journal.done()]).tolist()
        return writer.journal.position, ranges, writer.journal.totals()
    finally:
        writer.close()


def _go_on(root: Path, known: Facts) -> tuple[str, int]:
    """What is closed is sealed, and the workers send all again."""
    writer = WriterRig(root)
    try:
        before = {path: path.read_bytes() for path in (root / STORE / "captions").glob("*.parquet")}
        writer.seal_all()
        changed = [path.name for path, content in before.items() if path.read_bytes() != content]
        assert not changed, f"segments were made anew and are not the same: {changed}"
        writer.list_shards(len(SHARDS))
        writer.open_passes(len(PASSES))
        writer.take(*PARTS[:6])
        writer.take(*PARTS)
        assert writer.take(*PARTS[3:5])[0].status == "duplicate"
        writer.seal_all()
        return writer.store.store_id, writer.journal.position
    finally:
        writer.close()


def _check_end(root: Path, known: Facts, files: Files | None = None) -> None:
    rows = look(root, files)
    missing = [row for row in _ROWS if row not in rows]
    assert not missing, f"{len(missing)} rows are missing at the end, such as {missing[:3]}"
    for row, position in rows.items():
        acked = known.acked.get(_ROWS[row].number, 0)
        assert not acked or position == acked, f"{row} was acked at position {acked} and is at {position}"
    for folder in ("staging", "journal"):
        left = [path.name for path in (root / STORE / folder).iterdir()]
        assert not left, f"left in {folder}: {left}"
    assert {path.name for path in (root / BROKER).iterdir()} >= {"registry.sqlite", "ledger.sqlite"}
