from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.errors import DamagedStoreError, StoreMismatchError, UsageError
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import DoneRange, SegmentRow, ShardRow, merge_ranges


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", "birds", create=True) as store:
        yield store


def segment(first: int, last: int, contributor: str = "ann") -> SegmentRow:
    return SegmentRow(first, last, (), 10, 1, 0, 1_700_000_000_000_000, {contributor: 10})


def items(ranges: list[DoneRange]) -> set[tuple[int, int, int]]:
    return {(number, shard, item) for number, shard, start, end in ranges for item in range(start, end)}


some_ranges = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(0, 60), st.integers(1, 9)).map(
        lambda one: (one[0], one[1], one[2], one[2] + one[3])
    ),
    max_size=40,
)


@given(some_ranges)
def test_merged_ranges_hold_the_same_items_and_do_not_touch(ranges: list[DoneRange]) -> None:
    merged: list[DoneRange] = [(a, b, c, d) for a, b, c, d in merge_ranges(ranges).tolist()]
    assert items(merged) == items(ranges)
    for before, after in itertools.pairwise(merged):
        assert before[:2] < after[:2] or (before[:2] == after[:2] and before[3] < after[2])


def test_all_is_there_after_opening_again(store: Store) -> None:
    manifest = Manifest.open(store)
    shards = [ShardRow(0, "a-00000", 5, "d0"), ShardRow(1, "ü-00000", 7, "d1")]
    manifest.add_shards(shards[:1])
    manifest.add_shards(shards[1:])
    assert manifest.add_pass(["short"]) == 1
    assert manifest.add_pass(["short"]) == 1
    assert manifest.add_pass(["short", "tags"]) == 2
    assert manifest.add_pass(["short"]) == 3
    manifest.add_segment(segment(1, 4), merge_ranges([(1, 0, 0, 3), (1, 0, 3, 5)]))
    manifest.add_segment(segment(5, 5, "bob"), merge_ranges([(2, 1, 0, 7)]))
    manifest.add_segment(segment(5, 5, "bob"), merge_ranges([(2, 1, 0, 7)]))
    manifest.close()
    again = Manifest.open(store)
    assert again.shards() == shards
    assert again.shards(1) == shards[1:]
    assert [row.slots for row in again.passes()] == [("short",), ("short", "tags"), ("short",)]
    assert again.segments() == [segment(1, 4), segment(5, 5, "bob")]
    assert list(again.done()) == [(1, 0, 0, 5), (2, 1, 0, 7)]
    assert again.last_position() == 5
    assert again.totals() == {"ann": 10, "bob": 10}
    again.close()


def test_readers_see_it_without_the_lock_and_cannot_change_it(store: Store) -> None:
    manifest = Manifest.open(store)
    manifest.add_shards([ShardRow(0, "a-00000", 5)])
    reader = Manifest.open(Store.peek(store.root))
    assert len(reader.shards()) == 1
    with pytest.raises(UsageError, match="readonly"):
        reader.add_pass(["short"])
    reader.close()
    manifest.close()


@pytest.mark.parametrize(
    "shards",
    [
        [ShardRow(0, "b-00000", 1)],
        [ShardRow(2, "b-00000", 1)],
        [ShardRow(1, "b-00000", 1), ShardRow(1, "c-00000", 1)],
        [ShardRow(1, "b-00000", 1), ShardRow(2, "a-00000", 1)],
    ],
)
def test_wrong_shards_change_nothing(store: Store, shards: list[ShardRow]) -> None:
    manifest = Manifest.open(store)
    manifest.add_shards([ShardRow(0, "a-00000", 5)])
    with pytest.raises(ValueError):
        manifest.add_shards(shards)
    manifest.add_shards([ShardRow(1, "z-00000", 5)])
    manifest.close()
    again = Manifest.open(store)
    assert [shard.name for shard in again.shards()] == ["a-00000", "z-00000"]
    again.close()


@pytest.mark.parametrize(("first", "last"), [(4, 6), (5, 8), (9, 12), (6, 7), (1, 20), (5, 4), (5, 10)])
def test_positions_are_sealed_once(store: Store, first: int, last: int) -> None:
    manifest = Manifest.open(store)
    manifest.add_segment(segment(5, 9), merge_ranges([]))
    with pytest.raises(DamagedStoreError):
        manifest.add_segment(segment(first, last), merge_ranges([]))
    manifest.close()


def test_a_newer_manifest_says_to_upgrade(store: Store) -> None:
    Manifest.open(store).close()
    with sqlite3.connect(store.manifest_path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StoreMismatchError, match="newer cfbus"):
        Manifest.open(store)


def test_altered_bytes_are_noticed(store: Store) -> None:
    manifest = Manifest.open(store)
    manifest.add_shards([ShardRow(number, f"a-{number:05d}", 5, "d" * 64) for number in range(30)])
    manifest.add_pass(["short"])
    manifest.add_segment(segment(1, 4), merge_ranges([(1, number, 0, 3) for number in range(30)]))
    manifest.close()
    whole = store.manifest_path.read_bytes()

    def content() -> object:
        manifest = Manifest.open(store)
        try:
            return manifest.shards(), manifest.passes(), manifest.segments(), list(manifest.done())
        finally:
            manifest.close()

    truth = content()
    noticed = 0
    for offset in np.random.default_rng(5).choice(len(whole), 150, replace=False):
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << (offset % 8)
        store.manifest_path.write_bytes(flipped)
        try:
            assert content() == truth, f"byte {offset}"
        except (DamagedStoreError, StoreMismatchError):
            noticed += 1
    assert noticed > 10  # much of the file is free space
