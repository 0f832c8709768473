"""As ``recovery``, of a store whose tombstones and redos are applied by compactions; what must hold then.

- A reader by the manifest sees what counts by the tombstones that are set: all of it that is sealed, once, and no more.
- The files of the manifest have all rows that a tombstone takes out, or it is known that it cannot be removed any more.
- When it was told that the rows of a tombstone were taken away for good, no file of the manifest has one.
- After the workers have sent all again the next compaction ends the work, and a glob is exact.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from crash.amended import ALL, REDONE, ROWS, counting, requeue, revoke, take_down, taken
from crash.cuts import Cut, Facts
from crash.recovery import by_glob, by_manifest, look
from crash.rig import STORE, WriterRig
from crash.sample import PARTS, PASSES, SHARDS, Row

import cfbus
from cfbus.store.compaction import compact
from cfbus.store.durable import make_dir
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest

_POSITIONS = {part.number: position for position, part in enumerate(ALL, 1)}
"""Where a result is that the workload made durable and did not come to tell of."""
LEFT = {2, 3, 5, 6, 8, 9, 11, 12, 14, 17, 19, 20, 23}
"""The results that have rows when all is over: of the others a tombstone takes out all."""
State = tuple[int, list[tuple[int, str]], list[tuple[tuple[int, int], tuple[tuple[int, int], ...]]]]


def recover_applied(cut: Cut, root: Path) -> None:
    """Lay the image out, look at it, go on, and see that everything holds."""
    cut.lay_out(root)
    make_dir((root / STORE).parent)
    known = cut.known.copy()
    if (root / STORE / "store.json").exists():
        strangers = [row for row in _check(root, known) if ROWS[row].number not in cut.sent]
        assert not strangers, f"rows that nobody had sent: {strangers[:3]}"
    first = _take_up(root, known)
    assert _take_up(root, known) == first, "taking it up twice finds something else"
    _go_on(root, known)
    _check(root, known)
    _compact(root)
    known.applied = 2
    rows = _check(root, known)
    assert rows == look(root, by_glob, ROWS), "a glob sees something else"
    assert rows.keys() == _seen(root).keys(), "files have rows that do not count"
    numbers = {ROWS[row].number for row in rows}
    assert numbers == LEFT, f"of these results rows are left: {sorted(numbers)}"
    assert not list((root / STORE / "compacting").iterdir()), "a compaction left something"
    WriterRig(root).close()


def _compact(root: Path) -> None:
    compact(Store.peek(root / STORE), time.time_ns() // 1000, 0)


def _check(root: Path, known: Facts) -> dict[Row, int]:
    """What the files of the manifest have, after all of it was compared with what it has to be."""
    there = look(root, by_manifest, ROWS)
    manifest = Manifest.open(Store.peek(root / STORE))
    try:
        segments, stones = manifest.segments(), manifest.tombstones()
    finally:
        manifest.close()
    placed = {row: known.acked.get(part.number) or _POSITIONS[part.number] for row, part in ROWS.items()}
    sealed = {
        row: position for row, position in placed.items() if any(one.first <= position <= one.last for one in segments)
    }
    over = {one.number: one.until for one in stones}
    wanted = counting(sealed, over)
    lost = wanted - there.keys()
    assert not lost, f"{len(lost)} rows that count are lost, such as {sorted(lost)[:3]}"
    moved = [row for row, position in there.items() if sealed.get(row) != position]
    assert not moved, f"{len(moved)} rows are not where they were acked, such as {moved[:3]}"
    assert counting(there, over) == wanted, "files have rows that count and were replaced"
    seen = _seen(root)
    assert not [row for row, count in seen.items() if count > 1], "a reader sees rows twice"
    assert seen.keys() == wanted, (
        f"a reader sees {len(seen.keys() - wanted)} too many, lacks {len(wanted - seen.keys())}"
    )
    for stone in stones:
        own = {row for row, position in sealed.items() if stone.number in taken(row, position, over)}
        left = own & there.keys()
        if stone.state == "active":
            assert left == own, f"tombstone {stone.number} can be removed, and {len(own - left)} rows of it are gone"
        if stone.number <= known.applied:
            assert stone.state == "compacted", f"tombstone {stone.number} is {stone.state}, and was applied"
            assert not left, f"{len(left)} rows of tombstone {stone.number} are there again"
    return there


def _seen(root: Path) -> Counter[Row]:
    """What the product's own reader gets."""
    view = cfbus.open(root / STORE)
    read = ["shard", "item_index", "revision"]
    captions = view.arrow([*read, "slot", "caption"]).to_pylist()
    letters = view.failures.arrow([*read, "detail"]).to_pylist()
    found = [tuple(row.values()) for row in captions]
    found += [(row["shard"], row["item_index"], row["revision"], "", row["detail"]) for row in letters]
    return Counter(found)


def _take_up(root: Path, known: Facts) -> State:
    """Open as the daemon does and look whether what was acknowledged and told is there."""
    writer = WriterRig(root)
    try:
        stones = writer.manifest.tombstones()
        assert len(stones) >= known.amended, "a tombstone is gone"
        redos = [row.redo.tombstone for row in writer.manifest.passes() if row.redo is not None]
        assert (1 in redos) == any(one.number == 1 for one in stones), "a tombstone without its redo, or a redo alone"
        assert writer.journal.position >= max(known.acked.values(), default=0), "the store ends before what was acked"
        done = writer.core.inventory.done()
        for part in (part for part in ALL if part.number in known.acked):
            pairs = done.get((part.pass_number, part.shard), ())
            assert any(a <= part.start and part.end <= b for a, b in pairs), f"{part} was acked and is not there"
        for stone in stones:
            if stone.state == "compacted":
                with pytest.raises(ValueError, match="compacted"):
                    writer.manifest.remove_tombstone(stone.number)
        return writer.journal.position, [(one.number, one.state) for one in stones], sorted(done.items())
    finally:
        writer.close()


def _go_on(root: Path, known: Facts) -> None:
    """All that the workload does to what counts is done, as far as it is not, and the workers send all again."""
    writer = WriterRig(root, lambda mark: known.hear(json.dumps(mark)))
    try:
        writer.seal_all()
        writer.list_shards(len(SHARDS))
        writer.open_passes(len(PASSES))
        writer.take(*PARTS)
        requeue(writer)
        writer.take(REDONE[0])
        writer.seal_all()
        revoke(writer)
        writer.take(*REDONE)
        take_down(writer)
        writer.seal_all()
    finally:
        writer.close()
