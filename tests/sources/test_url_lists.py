"""Lists of addresses: what is listed, what appended and changed lists do, and what the bus may make a worker open."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources.known import Listed
from sources.web_rig import JPEG, image, serving, status

from cfbus.config_downloads import Downloading
from cfbus.errors import SourceError
from cfbus.sources.base import ColumnsApart, Item, ListedShard, NothingKnown, ReadError, Source
from cfbus.sources.list_locators import RowLocator
from cfbus.sources.url_lists import UrlSource, url_column


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[UrlSource] = []

    def make(*paths: Path, private: bool = False, **more: Any) -> UrlSource:
        made.append(UrlSource(paths, Downloading(allow_private_addresses=private, attempts=1), **more))
        return made[-1]

    yield make
    for source in made:
        source.close()


def write_csv(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("url", "title")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def urls_of(shards: Sequence[ListedShard]) -> list[str]:
    return [RowLocator.unpack(locator).url for shard in shards for locator in shard.locators]


def numbered(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"http://a.example/{number}.jpg", f"title {number}") for number in range(start, start + count)]


def test_it_is_a_source_whose_columns_need_no_download(opened: Any, tmp_path: Path) -> None:
    source: Source = opened(write_csv(tmp_path / "a.csv", numbered(1)))
    assert isinstance(source, ColumnsApart)
    assert (source.readers, source.out_of_reach()) == (64, "")
    shard = next(source.shards(NothingKnown()))
    item = Item(0, shard.keys[0], shard.locators[0])
    assert source.columns(item) == {"title": "title 0", "url": "http://a.example/0.jpg"}


def test_shards_are_slices_with_names_and_keys_that_stay(opened: Any, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", numbered(10))
    shards = list(opened(path, shard_items=4).shards(NothingKnown()))
    name = f"{tmp_path.name}/a.csv"
    assert [shard.name for shard in shards] == [f"{name}-00000", f"{name}-00001", f"{name}-00002"]
    assert [len(shard.keys) for shard in shards] == [4, 4, 2]
    assert [key for shard in shards for key in shard.keys] == [str(number) for number in range(10)]
    assert urls_of(shards) == [url for url, _ in numbered(10)]

    write_csv(path, numbered(15))
    more = list(opened(path, shard_items=4).shards(Listed(shards)))
    assert [shard.name for shard in more] == [f"{name}-00003", f"{name}-00004"]
    assert [key for shard in more for key in shard.keys] == [str(number) for number in range(10, 15)]
    assert urls_of(more) == [url for url, _ in numbered(5, 10)]
    assert list(opened(path, shard_items=7).shards(Listed([*shards, *more]))) == []


@pytest.mark.parametrize("change", ["first", "last", "shorter", "empty"])
def test_a_list_that_was_replaced_is_reported_and_nothing_is_mixed(opened: Any, tmp_path: Path, change: str) -> None:
    path = write_csv(tmp_path / "a.csv", numbered(10))
    shards = list(opened(path, shard_items=4).shards(NothingKnown()))
    rows = numbered(20)
    if change in ("first", "last"):
        rows[0 if change == "first" else 9] = ("http://b.example/", "other")
    write_csv(path, {"shorter": rows[:9], "empty": []}.get(change, rows))
    source = opened(path, shard_items=4)
    assert list(source.shards(Listed(shards))) == []
    assert [(thing.reason, thing.grave) for thing in source.left_out.things] == [
        ("is not the list that was listed: its first 10 rows changed. What was listed stays; nothing is added", True)
    ]


def test_columns_and_the_key_come_from_the_row(opened: Any, tmp_path: Path) -> None:
    rows = [("k1", "http://a/1", "one"), ("", "http://a/2", "two"), ("k" * 2000, "http://a/3", "three")]
    path = write_csv(tmp_path / "a.csv", rows, ("id", "picture", "url"))
    source = opened(path, url_column="picture", key_column="id")
    shard = next(source.shards(NothingKnown()))
    assert shard.keys == ["k1", "1", "k" * 1024]
    assert source.columns(Item(0, "k1", shard.locators[0])) == {"id": "k1", "url": "http://a/1"}


def test_the_first_column_that_is_called_like_an_address() -> None:
    assert url_column(["ID", "TEXT", "URL", "image"], "", Path("a")) == "URL"
    assert url_column(["image_url", "x"], "", Path("a")) == "image_url"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"url_column": "adress"}, r"no column adress \(its columns: address, title; did you mean address\?\)"),
        ({}, r"no column url \(its columns: address, title"),
        ({"url_column": "address", "key_column": "titel"}, r"no column titel .*did you mean title\?"),
    ],
)
def test_a_missing_column_is_said_with_those_that_are_there(
    opened: Any, tmp_path: Path, more: dict[str, str], said: str
) -> None:
    path = write_csv(tmp_path / "a.csv", numbered(1), ("address", "title"))
    with pytest.raises(SourceError, match=said):
        list(opened(path, **more).shards(NothingKnown()))


def test_nothing_to_list_is_said(opened: Any, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [])
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(
        SourceError, match=r"no list with addresses was found\..*a\.csv has no rows\..*b\.parquet cannot"
    ):
        list(opened(tmp_path).shards(NothingKnown()))


def test_of_a_list_that_breaks_off_what_came_before_counts(opened: Any, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", numbered(6))
    good = path.read_text()
    path.write_text(good + '"' + "x\n" * 100_000)
    source = opened(path, shard_items=4)
    shards = list(source.shards(NothingKnown()))
    assert urls_of(shards) == [url for url, _ in numbered(6)]
    assert [thing.grave for thing in source.left_out.things] == [True]
    write_csv(path, numbered(8))
    assert urls_of(list(opened(path).shards(Listed(shards)))) == [url for url, _ in numbered(2, 6)]


def test_a_row_without_a_good_address_is_an_item_with_a_sentence(opened: Any, tmp_path: Path) -> None:
    bad: list[tuple[object, str]] = [
        ("", "Its row has no address."),
        (None, "Its row has no address."),
        (7, "Its row has no address."),
        ("http://a/" + "x" * 2048, "Its address has more than 2048 bytes."),
        ("http://a/\u202e", "Its address has characters that no address has."),
        ("http://a/\ud800", "Its address is not text."),
        ("pipe:cat /etc/passwd", "Its address begins with 'pipe:cat /etc/passwd', not with http:// or https://."),
        ("file:///etc/passwd", "Its address begins with 'file:///etc/passwd', not with http:// or https://."),
        ("ftp://a/b.jpg", "Its address begins with 'ftp://a/b.jpg', not with http:// or https://."),
    ]
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"url": "http://a/1"}), "{", *(json.dumps({"url": url}) for url, _ in bad)]
    path.write_text("\n".join(lines))
    source = opened(path)
    (shard,) = source.shards(NothingKnown())
    said = []
    for index, locator in enumerate(shard.locators[1:], 1):
        with pytest.raises(ReadError) as caught:
            source.read(shard.name, Item(index, str(index), locator))
        said.append((caught.value.reason, caught.value.detail, caught.value.fault))
    assert said[0][0] == "bad-row"
    assert said[1:] == [("bad-url", sentence, "item") for _, sentence in bad]


def test_parquet_by_parts_with_row_groups(opened: Any, tmp_path: Path) -> None:
    for part in range(3):
        table = pa.table({"URL": [url for url, _ in numbered(50, part * 50)], "TEXT": ["x"] * 50})
        pq.write_table(table, tmp_path / f"part-{part}.parquet", row_group_size=20)
    shards = list(opened(tmp_path / "part-{0..2}.parquet", shard_items=30).shards(NothingKnown()))
    assert [shard.name.rpartition("/")[2] for shard in shards] == [
        f"part-{part}.parquet-0000{number}" for part in range(3) for number in range(2)
    ]
    assert urls_of(shards) == [url for url, _ in numbered(150)]


def test_a_long_list_is_listed_early_and_in_the_memory_of_a_shard(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w") as file:
        file.write("url\n")
        file.writelines(f"http://a.example/{number}.jpg\n" for number in range(200_000))
    shards = opened(path, shard_items=1000).shards(NothingKnown())
    tracemalloc.start()
    try:
        first = next(shards)
        assert sum(1 for _ in islice(shards, 50)) == 50
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(first.keys) == 1000
    assert peak < 8 << 20


# -- reading what the bus says


def read(source: Source, locator: bytes) -> tuple[str, str]:
    with pytest.raises(ReadError) as caught:
        source.read("any-00000", Item(0, "0", locator))
    return caught.value.reason, caught.value.fault


def test_an_item_is_downloaded_without_its_list(opened: Any, tmp_path: Path) -> None:
    with serving({"/a": image(), "/": status(410)}) as server:
        source = opened(tmp_path / "not-here.csv", private=True)
        url = f"http://127.0.0.1:{server.port}/a.jpg"
        content = source.read("any-00000", Item(0, "0", RowLocator(url, {"title": "t", "url": "other"}).pack()))
        assert (content.data, content.columns) == (JPEG, {"title": "t", "url": url})
        gone = RowLocator(f"http://127.0.0.1:{server.port}/b").pack()
        assert read(source, gone) == ("http-410", "item")


@pytest.mark.parametrize("url", ["pipe:touch {}", "file://{}", "ftp://127.0.0.1/{}", "{}", "http:{}", "unix://{}"])
def test_the_bus_cannot_make_a_worker_open_anything_else(opened: Any, tmp_path: Path, url: str) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(JPEG)
    source = opened(tmp_path / "not-here.csv", private=True)
    assert read(source, RowLocator(url.format(secret)).pack()) == ("bad-url", "item")


def test_nor_ask_this_host_or_the_clouds_metadata(opened: Any, tmp_path: Path) -> None:
    with serving({"/": image()}) as server:
        source = opened(tmp_path / "not-here.csv")
        for host in ("127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0"):
            url = f"http://{host}:{server.port}/a"
            assert read(source, RowLocator(url).pack()) == ("private-address", "item"), host
        assert not server.asked


@pytest.mark.parametrize("locator", [b"", b"/etc/passwd", b"w\0http://a/", b"w\0u\0{\0", b"\xff" * 9000])
def test_a_locator_that_is_none_is_refused(opened: Any, tmp_path: Path, locator: bytes) -> None:
    assert read(opened(tmp_path / "not-here.csv"), locator) == ("outside", "worker")
