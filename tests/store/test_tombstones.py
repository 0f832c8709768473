"""Tombstones: the rows that they take out are in no library's table, come back when they are removed, and go for good
with a compaction. And redos in the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store.test_compaction import Opened
from store.test_compaction import run as compacted
from store.test_view import Read, failures_table, keys, readers, seal, slots_table

import cfbus
from cfbus.core.frame import JournalFrame
from cfbus.errors import UsageError
from cfbus.store import amendments
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import RedoFacts, Tombstone
from cfbus.store.tombstones import NO_END

Framer = Callable[..., JournalFrame]
ANN = Tombstone(
    1, (("contributor_id", "ann"),), ("captions", "failures"), NO_END, 0, "revoke-rows", "mia", "7" * 16, 5, {"ann": 4}
)
FACTS = RedoFacts("a test", "mia", "7" * 16, 5, (("max_tokens", "512"),), 1)
ITEMS = np.array([[0, 2, 6], [1, 0, 1]], np.int64)


@pytest.fixture
def two(opened: Opened, framer: Framer) -> Opened:
    """Items 0 to 4 of ann, items 4 to 8 of bob, whose pass 2 wrote items 0 and 1 again; a dead letter of ann."""

    def frame(number: int, start: int, end: int, who: str) -> JournalFrame:
        slots = {1: ("short",), 2: ("short", "tags", "long")}[number]
        made = framer(1, slots_table(end - start, slots, who), ((start, end),), pass_number=number)
        return replace(made, contributor=who)

    dead = replace(framer(1, failures_table(1), ((9, 10),)), contributor="ann")
    seal(opened, frame(1, 0, 4, "ann"), dead)
    seal(opened, frame(1, 4, 8, "bob"), frame(2, 0, 2, "bob"))
    return opened


def stones(opened: Opened, *wanted: Tombstone) -> None:
    for one in wanted:
        opened.manifest.amend([], one)


def items_of(table: pa.Table) -> list[tuple[int, str, int]]:
    return [(item, slot, revision) for _, item, slot, revision in keys(table)]


BOB_S = [(item, "short", 1) for item in range(4, 8)]
AGAIN = [(item, slot, 2) for item in (0, 1) for slot in ("long", "short", "tags")]


@readers
def test_what_is_taken_out_is_in_no_table(two: Opened, read: Read) -> None:
    stones(two, ANN)
    view = cfbus.open(two.store.root)
    assert items_of(read(view)) == sorted([*BOB_S, *AGAIN])
    assert read(view.failures).num_rows == 0
    assert items_of(read(cfbus.open(two.store.root, latest=False))) == sorted([*BOB_S, *AGAIN])


@readers
def test_an_earlier_row_counts_in_place_of_one_that_is_taken_out(two: Opened, read: Read) -> None:
    stones(two, replace(ANN, columns=(("contributor_id", "bob"),)))
    assert items_of(read(cfbus.open(two.store.root))) == [(item, "short", 1) for item in range(4)]


@readers
@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"until": 1}, 10),  # ann's captions
        ({"until": 0}, 12),
        ({"columns": (("contributor_id", "bob"),), "until": 3}, 8),
        ({"since": 1 << 61}, 12),
        ({"columns": (("image_sha256", bytes(range(32)).hex()),)}, 0),
        ({"columns": (("image_sha256", "ab" * 32),)}, 12),
        ({"columns": (("contributor_id", "' OR true --"),)}, 12),
        ({"columns": (("shard", "birds-00000"), ("contributor_id", "ann"))}, 10),
        ({"tables": ("failures",)}, 12),
        ({"state": "removed"}, 12),
    ],
)
def test_up_to_a_position_since_a_time_and_by_each_column(
    two: Opened, read: Read, change: dict[str, object], left: int
) -> None:
    stones(two, replace(ANN, **change))  # type: ignore[arg-type]
    view = cfbus.open(two.store.root, latest=True)
    assert read(view).num_rows == left


def test_credits_and_dead_letters_go_and_come(two: Opened) -> None:
    whole = two.manifest.totals()
    stones(two, replace(ANN, dead_letters=1))
    assert two.manifest.totals() == {"bob": whole["bob"]}
    assert two.manifest.failures() == 0
    facts, closed = amendments.restore(two.manifest, 1, "9" * 16)
    assert (facts[0], closed) == (("restored", "1"), [])
    assert two.manifest.totals() == whole
    assert two.manifest.failures() == 1
    for _ in range(2):
        with pytest.raises(UsageError, match="was removed before"):
            amendments.restore(two.manifest, 1, "9" * 16)
    with pytest.raises(UsageError, match="no tombstone 9"):
        amendments.restore(two.manifest, 9, "9" * 16)


@readers
def test_a_compaction_takes_them_away_for_good(two: Opened, read: Read) -> None:
    stones(two, replace(ANN, dead_letters=1))
    before = items_of(read(cfbus.open(two.store.root)))
    totals = two.manifest.totals()
    assert compacted(two, keep=0).dropped == 4 + 1
    assert items_of(read(cfbus.open(two.store.root))) == before
    path = two.store.root / "captions"
    assert [pq.read_table(file).num_rows for file in path.iterdir()] == [len(before)]
    with closing(Manifest.open(Store.peek(two.store.root))) as manifest:
        assert manifest.totals() == totals
        assert manifest.failures() == 0
        assert manifest.tombstones()[0].state == "compacted"
    with pytest.raises(UsageError, match="taken away for good"):
        amendments.restore(two.manifest, 1, "9" * 16)


def test_a_compaction_does_not_count_with_one_that_is_removed_meanwhile(two: Opened) -> None:
    stones(two, ANN)
    with closing(Manifest.open_beside(two.store)) as beside:
        amendments.restore(two.manifest, 1, "9" * 16)
        segment = beside.segments()[0]
        new = replace(segment, files=("captions/x.1.parquet",))
        done = beside.done_of_segments()[segment.first]
        assert not beside.replace_segments([segment], new, done, 1, {1: 0})
        assert beside.segments()[0] == segment
    assert compacted(two).dropped == 2, "what pass 2 replaced, and nothing else"


def test_a_redo_is_known_again_with_all_that_it_is_over(opened: Opened) -> None:
    (row,) = opened.manifest.amend([(("short",), FACTS, ITEMS)], ANN)
    assert (row.number, row.items, row.redo, row.closed) == (3, 5, FACTS, False)
    with closing(Manifest.open(Store.peek(opened.store.root))) as again:
        assert again.passes()[-1] == row
        assert again.selected(3).tolist() == ITEMS.tolist()
        assert again.tombstones() == [ANN]
        newest = again.newest_pass()
        assert newest is not None
        assert newest.number == 2
    assert opened.manifest.add_pass(("short", "tags", "long")) == 2, "a redo is not the newest pass"
    assert amendments.carried_out(opened.manifest, "7" * 16) == (("passes", "3"), ("tombstone", "1"))
    assert amendments.carried_out(opened.manifest, "8" * 16) is None


def test_a_redo_is_closed_by_hand_or_with_its_tombstone(opened: Opened) -> None:
    opened.manifest.amend([(("short",), FACTS, ITEMS), (("tags",), replace(FACTS, tombstone=0), ITEMS)], ANN)
    _, (closed,) = amendments.close(opened.manifest, 4, "9" * 16)
    assert closed.closed
    for number, said in ((4, "closed already"), (2, "no redo with the number 2"), (9, "no redo")):
        with pytest.raises(UsageError, match=said):
            amendments.close(opened.manifest, number, "9" * 16)
    facts, rows = amendments.restore(opened.manifest, 1, "9" * 16)
    assert facts == (("restored", "1"), ("closed_passes", "3"))
    assert [row.closed for row in rows] == [True]
    with closing(Manifest.open(Store.peek(opened.store.root))) as again:
        assert [row.closed for row in again.passes()] == [False, False, True, True]


def test_a_manifest_of_the_version_before_is_read_and_brought_up(two: Opened, tmp_path: Path) -> None:
    rows = cfbus.open(two.store.root).arrow().num_rows
    for table in ("redos", "selections", "tombstones"):
        two.manifest._connection.execute(f"DROP TABLE {table}")
    two.manifest._connection.execute("PRAGMA user_version = 2")
    root = shutil.copytree(two.store.root, tmp_path / "old")
    assert cfbus.open(root).arrow().num_rows == rows
    with Store.open(root, "birds", create=False) as store, closing(Manifest.open(store)) as manifest:
        assert manifest.amend([(("short",), FACTS, ITEMS)], None)[0].number == 3
    assert cfbus.open(root).arrow().num_rows == rows


def test_a_request_whose_answer_was_lost_is_known_by_its_task(opened: Opened) -> None:
    opened.manifest.amend([(("short",), FACTS, ITEMS), (("tags",), replace(FACTS, tombstone=0), ITEMS)], ANN)
    told = {
        "a" * 16: amendments.close(opened.manifest, 4, "a" * 16)[0],
        "b" * 16: amendments.restore(opened.manifest, 1, "b" * 16)[0],
    }
    with closing(Manifest.open(Store.peek(opened.store.root))) as again:
        assert {task: amendments.carried_out(again, task) for task in told} == told
        assert amendments.carried_out(again, "c" * 16) is None


def test_a_manifest_from_before_says_nothing_of_who_ended_what(opened: Opened) -> None:
    without = {name: value for name, value in json.loads(ANN.plain()).items() if name != "end_task"}
    assert Tombstone.of(1, json.dumps(without)) == ANN
    without = {name: value for name, value in json.loads(FACTS.plain()).items() if name != "end_task"}
    assert RedoFacts.of(json.dumps(without)) == FACTS
