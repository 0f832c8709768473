"""Redo and undo on a bus that runs: what is asked for is captioned again, what is taken out is in no table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes.all_daemons import AllDaemons
from processes.support import Nursery, until

import cfbus

ITEMS = 300
BUS = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "dataset.shard_items=100",
    "captions.engine=scripted",
    "captions.scripted.length=40",
    "captions.scripted.failures=0.02",
    "captions.slots.short.prompt=Name it.",
    "captions.slots.long.prompt=Describe it.",
    "broker.max_attempts=1",
    "worker.name=ann",
)


class Bus(AllDaemons):
    """A run that is at its end."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        super().__init__(nursery, folder, *BUS)
        self.finished()

    def rows(self, *, latest: bool = True) -> list[tuple[str, int, str, int, str]]:
        names = ("shard", "item_index", "slot", "revision", "caption")
        found = cfbus.open(self.store, latest=latest).arrow(names).to_pylist()
        return sorted(tuple(row[name] for name in names) for row in found)


@pytest.fixture
def bus(nursery: Nursery, tmp_path: Path) -> Iterator[Bus]:
    made = Bus(nursery, tmp_path / "bus")
    yield made
    made.end()


def test_captions_are_written_again_and_the_rest_is_kept(bus: Bus) -> None:
    before = bus.rows()
    where = "item_index % 10 = 3 AND shard LIKE '%1'"
    dry = bus.ask.json("requeue", "--where", where, "--slot", "long", "--dry-run")
    wanted = [row for row in before if row[1] % 10 == 3 and row[0].endswith("1") and row[2] == "long"]
    assert (dry["captions"], dry["to_caption"]) == (len(wanted), len(wanted))
    assert 0 < len(wanted) <= 10
    assert bus.rows() == before
    assert "did you mean length" in bus.ask("requeue", "--where", where, "--set", "lenght=90", ends=2)
    done = bus.ask.json("requeue", "--where", where, "--slot", "long", "--set", "length=90")
    assert done["passes"] == 2
    bus.finished()
    after = bus.rows()
    assert [row for row in after if row[3] == 1] == [row for row in before if row not in wanted]
    again = [row for row in after if row[3] == 2]
    assert [row[:3] for row in again] == [row[:3] for row in wanted]
    assert {len(row[4]) for row in again} == {90}
    assert len(bus.rows(latest=False)) == len(before) + len(wanted)
    (_, redo) = bus.ask.json("passes")
    assert (redo["of"], redo["items"], redo["done"], redo["state"], redo["set"]) == (
        "redo", str(len(wanted)), str(len(wanted)), "complete", "length=90",
    )  # fmt: skip


def test_a_contributor_s_rows_are_taken_out_made_good_and_restored(bus: Bus) -> None:
    before = bus.rows()
    who, worker, key = next(iter(cfbus.open(bus.store).arrow(["contributor_id", "worker", "key"]).to_pylist())).values()
    assert bus.ask.json("revoke-rows", "--key", key, "--dry-run")["captions"] == len(before)
    bus.ask("pause")
    dry = bus.ask.json("revoke-rows", "--contributor", who, "--dry-run")
    assert dry["captions"] == len(before)
    done = bus.ask.json("revoke-rows", "--contributor", who)
    assert (done["tombstone"], done["passes"], done["to_caption"]) == (1, 2, 2 * ITEMS)
    assert bus.rows() == []
    until("credits went back", lambda: bus.ask.json("status")["captions"] == 0)
    assert "Nothing that is sealed" in bus.ask("revoke-rows", "--contributor", who, ends=2)
    assert bus.ask.json("restore", "1")["closed_passes"] == 2
    assert bus.rows() == before
    until("credits came again", lambda: bus.ask.json("status")["captions"] == len(before))
    bus.ask.json("revoke-rows", "--worker", worker)
    bus.ask("resume")
    bus.finished()
    assert [(*row[:3], row[4]) for row in bus.rows()] == [(*row[:3], row[4]) for row in before]
    assert {row[3] for row in bus.rows()} == {3}


def test_an_image_is_taken_down_and_dead_letters_are_tried_again(bus: Bus) -> None:
    before = bus.rows()
    shard, index, *_ = before[0]
    keys = cfbus.open(bus.store).arrow(["shard", "item_index", "item_key"]).to_pylist()
    key = next(row["item_key"] for row in keys if (row["shard"], row["item_index"]) == (shard, index))
    digest = hashlib.sha256(b"nothing").hexdigest()
    assert bus.ask.json("takedown", "--sha256", digest, "--dry-run")["captions"] == 0
    assert bus.ask.json("takedown", "--key", key)["captions"] == 2
    assert [row for row in before if row not in bus.rows()] == [row for row in before if row[:2] == (shard, index)]
    (stone,) = bus.ask.json("tombstones")["rows"]
    assert (stone["state"], stone["captions"]) == ("active", "0")
    letters = bus.ask.json("dead-letters", "--by", "reason")
    count = letters["dead_letters"]
    assert letters["rows"] == [{"reason": "scripted", "count": str(count)}]
    assert count > 0
    assert bus.ask.json("scan") == {"whole": True, "findings": []}
    done = bus.ask.json("status")["done"]
    bus.ask("rebuild-ledger")
    until("it is known again", lambda: bus.ask.json("status")["done"] == done)
    said = bus.ask.json("reset", "--failed", "--reason", "scripted")
    assert (said["dead_letters"], said["tombstone"]) == (count, 2)
    bus.finished()
    assert bus.ask.json("dead-letters")["dead_letters"] == count, "they fail again, in a pass of their own"
    assert len(cfbus.open(bus.store, latest=False).failures.arrow()) == count
