from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbus.bus.columns import to_plain
from cfbus.errors import DamagedStoreError
from cfbus.store import listing as listings
from cfbus.store.folder import Store
from cfbus.store.listing import SCHEMA, Known, listing_page, read_listing, write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow

keys_and_locators = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.binary(max_size=20)), max_size=30
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", "birds", create=True) as store:
        yield store


@settings(max_examples=40, deadline=None)
@given(keys_and_locators, st.integers(0, 30), st.integers(0, 30))
def test_what_is_listed_is_read(rows: list[tuple[str, bytes]], start: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder), "birds", create=True) as store:
        write_listing(store, 3, [key for key, _ in rows], [locator for _, locator in rows])
        table = read_listing(store, 3, start, start + count)
        wanted = rows[start : start + count]
        assert table.rows == len(wanted)
        assert table.text("key").texts() == [key for key, _ in wanted]
        assert [table.text("locator").raw(row) for row in range(table.rows)] == [locator for _, locator in wanted]


def test_the_digest_is_of_the_content(store: Store) -> None:
    first = write_listing(store, 0, ["a", "b"], [b"1", b"2"])
    assert write_listing(store, 1, ["a", "b"], [b"1", b"2"]) == first
    assert write_listing(store, 2, ["a", "c"], [b"1", b"2"]) != first
    assert list(store.staging_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("start", "end", "rows"),
    [
        (0, 10, 10),
        (0, 14, 10),
        (0, 19, 10),
        (10, 30, 15),
        (3, 12, 7),
        (5, 16, 11),
        (25, 40, 15),
        (26, 39, 13),
        (0, 40, 40),
    ],
)  # fmt: skip
def test_a_page_ends_with_a_group_that_ends_in_its_second_half(store: Store, start: int, end: int, rows: int) -> None:
    write_listing(store, 0, [str(n) for n in range(40)], [b""] * 40, [10, 25, 40])
    assert listing_page(store, 0, start, end, 1 << 20)[0] == rows
    write_listing(store, 0, [str(n) for n in range(40)], [b""] * 40)
    assert listing_page(store, 0, start, end, 1 << 20)[0] == end - start


@given(st.binary(max_size=40), st.integers(0, 39), st.integers(1, 40))
def test_damaged_ends_of_groups_never_lengthen_or_empty_a_page(said: bytes, start: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder), "birds", create=True) as store:
        table = pa.table({"key": [str(n) for n in range(40)], "locator": [b""] * 40}, schema=SCHEMA)
        pq.write_table(table.replace_schema_metadata({"cfbus.group-ends": said}), store.listing_path(0))
        listings._open.cache_clear()
        rows = min(count, 40 - start)
        assert rows / 2 <= listing_page(store, 0, start, start + rows, 1 << 20)[0] <= rows


def test_a_listing_written_again_is_not_read_from_before(store: Store) -> None:
    write_listing(store, 0, ["a"], [b"1"])
    assert read_listing(store, 0, 0, 9).text("key").texts() == ["a"]
    write_listing(store, 0, ["b", "c"], [b"1", b"2"])
    assert read_listing(store, 0, 0, 9).text("key").texts() == ["b", "c"]


def test_a_missing_or_altered_listing_is_damage(store: Store) -> None:
    with pytest.raises(DamagedStoreError, match="gone"):
        read_listing(store, 0, 0, 1)
    write_listing(store, 0, [f"key{number}" for number in range(2000)], [b"x" * 30] * 2000)
    whole = store.listing_path(0).read_bytes()
    truth = to_plain(read_listing(store, 0, 0, 2000))
    noticed = 0
    for offset in range(0, len(whole), len(whole) // 150):
        flipped = bytearray(whole)
        flipped[offset] ^= 0x10
        store.listing_path(offset + 10).write_bytes(flipped)
        try:
            assert to_plain(read_listing(store, offset + 10, 0, 2000)) == truth
        except DamagedStoreError:
            noticed += 1
    assert noticed > 100
    store.listing_path(9).write_bytes(whole[:-1])
    with pytest.raises(DamagedStoreError):
        read_listing(store, 9, 0, 1)


def test_known_keys_are_those_of_the_label(store: Store) -> None:
    manifest = Manifest.open(store)
    for number, (name, keys) in enumerate(
        [
            ("cats-00000", ["a", "b"]),
            ("cats-00003", ["c", ""]),
            ("cats-7-00000", ["d"]),
            ("dogs", ["e"]),
            ("empty-00000", []),
        ]
    ):
        digest = write_listing(store, number, keys, [b""] * len(keys))
        manifest.add_shards([ShardRow(number, name, len(keys), digest)])
    known = Known(store, manifest)
    every = ("a", "b", "c", "d", "e", "", "A")
    assert {key for key in every if known.contains("cats", key)} == {"a", "b", "c", ""}
    assert {key for key in every if known.contains("cats-7", key)} == {"d"}
    for label in ("dogs", "empty", "new"):
        assert not any(known.contains(label, key) for key in every)
    labels = ("cats", "cats-7", "dogs", "empty", "new")
    assert [known.next_number(label) for label in labels] == [4, 1, 0, 1, 0]
    manifest.close()


def test_no_new_key_is_taken_for_a_known_one(store: Store) -> None:
    manifest = Manifest.open(store)
    keys = [f"folder/{number:07d}.jpg" for number in range(20_000)]
    manifest.add_shards([ShardRow(0, "x-00000", 10_000, write_listing(store, 0, keys[::2], [b""] * 10_000))])
    known = Known(store, manifest)
    assert [known.contains("x", key) for key in keys] == [True, False] * 10_000
    manifest.close()


def test_keys_that_share_half_of_their_hash_are_told_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfbus.store.listing._hash", lambda key: b"\x01" * 8 + key.encode().ljust(8))
    manifest = Manifest.open(store)
    manifest.add_shards([ShardRow(0, "x-00000", 3, write_listing(store, 0, ["a", "b", "c"], [b""] * 3))])
    known = Known(store, manifest)
    assert [known.contains("x", key) for key in "abcd"] == [True, True, True, False]
    manifest.close()


def test_the_end_of_a_label_is_the_last_locator_of_its_last_shard(store: Store) -> None:
    manifest = Manifest.open(store)
    for number, (name, size) in enumerate([("a-00001", 2), ("a-00000", 3), ("b-00000", 1), ("a-b", 9)]):
        locators = [f"{name} {item}".encode() for item in range(size)]
        digest = write_listing(store, number, [str(item) for item in range(size)], locators)
        manifest.add_shards([ShardRow(number, name, size, digest)])
    known = Known(store, manifest)
    manifest.close()
    assert known.end("a") == (5, b"a-00001 1")
    assert known.end("b") == (1, b"b-00000 0")
    assert known.end("c") == (0, b"")


def test_the_first_of_a_name_that_starts_so(store: Store) -> None:
    manifest = Manifest.open(store)
    names = ["set-more/b", "set/b", "set/a#2", "set"]
    for number, name in enumerate(names):
        digest = write_listing(store, number, ["k", "l"], [name.encode(), b"second"])
        manifest.add_shards([ShardRow(number, name, 2, digest)])
    known = Known(store, manifest)
    manifest.close()
    assert [known.first(start) for start in ("set/", "set-", "set/a#", "set", "sex", "", "se/")] == [
        b"set/a#2", b"set-more/b", b"set/a#2", b"set", b"", b"set", b"",
    ]  # fmt: skip
