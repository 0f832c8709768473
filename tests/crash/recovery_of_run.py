"""As ``recovery``, of a bus of real processes: what they sent follows from the items' keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from crash.cuts import Cut
from crash.drive_daemons import SLOTS
from crash.recovery import Place
from crash.rig import STORE, BrokerRig, WriterRig

Found = tuple[int, list[tuple[tuple[int, int], tuple[tuple[int, int], ...]]]]


def recover_run(cut: Cut, root: Path) -> None:
    """Lay the image out, recover, seal, and see that everything holds."""
    cut.lay_out(root)
    if not (root / STORE).parent.is_dir():
        (root / STORE).parent.mkdir()  # as `cfbus init` does; what the daemons then need lies elsewhere
    look(root)
    first = _take_up(root, cut)
    assert _take_up(root, cut) == first, "taking it up twice finds something else"
    writer = WriterRig(root)
    try:
        writer.seal_all()
        store_id = writer.store.store_id
        done = writer.core.inventory.done()
    finally:
        writer.close()
    broker = BrokerRig(root)
    try:
        assert not broker.greet(store_id, first[0]), "the broker takes the store for one that went backwards"
    finally:
        broker.close()
    rows = look(root)
    wanted = {
        (number, shard, index) for (number, shard), pairs in done.items() for a, b in pairs for index in range(a, b)
    }
    assert rows == wanted, f"{len(wanted - rows)} items have no rows, {len(rows - wanted)} too many"


def _take_up(root: Path, cut: Cut) -> Found:
    writer = WriterRig(root)
    try:
        position = writer.journal.position
        assert position >= cut.known.position, f"the store ends at {position}, {cut.known.position} was acked"
        done = writer.core.inventory.done()
        lost = [
            (number, shard, index)
            for number, shard, index in cut.known.done
            if not any(a <= index < b for a, b in done.get((number, shard), ()))
        ]
        assert not lost, f"{len(lost)} items were acked and are gone, such as {lost[:3]}"
        return position, sorted(done.items())
    finally:
        writer.close()


def look(root: Path) -> set[Place]:
    """The items that have rows, as a reader of the tables sees them; each whole, once, and with what was sent."""
    rows: Counter[tuple[Place, str]] = Counter()
    for path in sorted((root / STORE / "captions").glob("*.parquet")):
        read = pq.read_table(path, columns=["item_index", "revision", "slot", "item_key", "caption"], use_threads=False)
        for index, number, slot, key, caption in zip(*(column.to_pylist() for column in read.columns), strict=True):
            assert caption.startswith(f"{slot} of {key}:"), f"{key} has {caption!r}"
            rows[(number, 0, index), slot] += 1
    for path in sorted((root / STORE / "failures").glob("*.parquet")):
        read = pq.read_table(path, columns=["item_index", "revision", "reason"], use_threads=False)
        for index, number, reason in zip(*(column.to_pylist() for column in read.columns), strict=True):
            assert reason == "scripted"
            rows.update(((number, 0, index), slot) for slot in SLOTS)
    doubles = [which for which, count in rows.items() if count > 1]
    assert not doubles, f"{len(doubles)} rows are there twice, such as {doubles[:3]}"
    places = {place for place, _ in rows}
    halves = [place for place in places if any((place, slot) not in rows for slot in SLOTS)]
    assert not halves, f"{len(halves)} items lack a slot, such as {halves[:3]}"
    return places
