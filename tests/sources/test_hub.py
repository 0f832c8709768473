"""Datasets of a hub, through `huggingface_hub` itself, on a server of the test's own."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, serving

from cfbus.config_dataset import Dataset
from cfbus.errors import SourceError
from cfbus.sources.base import Item, ListedShard, NothingKnown, ReadError, ReadReason, Source
from cfbus.sources.opening import open_source

hub_library = pytest.importorskip("huggingface_hub")
FIRST, SECOND = "a" * 40, "b" * 40
TRAIN, TEST = "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"


def table(label: str, rows: int = 12, size: int = 100) -> bytes:
    out = io.BytesIO()
    dice = random.Random(label)
    images = [{"bytes": dice.randbytes(size), "path": None} for _ in range(rows)]
    columns = {"image": images, "title": [f"{label} {n}" for n in range(rows)]}
    pq.write_table(pa.table(columns), out, row_group_size=4, compression="none")
    return out.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {TRAIN: table("train"), TEST: table("test"), "README.md": b"a dataset"}
    commits = {FIRST: files, SECOND: {TRAIN: table("newer")}}
    with serving(Hub("org/set", dict(commits), {"main": FIRST})) as server:
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        hub_library.HfFileSystem.clear_instance_cache()
        yield server
        hub_library.HfFileSystem.clear_instance_cache()


def source_of(address: str = "hf://org/set", **keys: Any) -> Source:
    return open_source(Dataset(paths=(address,), **keys))


def listed(source: Source) -> list[ListedShard]:
    return list(source.shards(NothingKnown()))


def title(source: Source, shard: ListedShard, index: int) -> object:
    item = Item(index, shard.keys[index], shard.locators[index])
    return source.read(shard.name, item).columns["title"]


def test_a_dataset_by_its_name(hub: Hub) -> None:
    source = source_of()
    test, train = listed(source)
    assert (test.name, train.name) == (f"org--set/{TEST}", f"org--set/{TRAIN}")
    assert title(source, train, 5) == "train 5"
    assert title(source, test, 11) == "test 11"
    source.close()


@pytest.mark.parametrize("address", ["hf://datasets/org/set", "hf://org/set@main", f"hf://org/set@{FIRST}"])
def test_other_ways_to_write_it(hub: Hub, address: str) -> None:
    assert len(listed(source_of(address))) == 2


@pytest.mark.parametrize("given", ["hf://org/set/data/train*", f"hf://org/set/{TRAIN}"])
def test_a_part_of_it(hub: Hub, given: str) -> None:
    assert [shard.name for shard in listed(source_of(given))] == [f"org--set/{TRAIN}"]


def test_what_was_listed_is_what_is_read_whatever_the_branch_is_by_then(hub: Hub) -> None:
    (train,) = listed(source_of(split="train"))
    hub.refs["main"] = SECOND
    worker = source_of(split="train")
    assert title(worker, train, 3) == "train 3"
    (newer,) = listed(source_of(split="train"))
    assert title(worker, newer, 3) == "newer 3"


def test_a_listing_reads_footers_and_not_pictures(hub: Hub) -> None:
    data = table("large", rows=40, size=400_000)
    hub.commits[FIRST] = {TRAIN: data}
    (shard,) = listed(source_of())
    ranges = [asked for _, path, asked in hub.asked if path.endswith(".parquet") and asked]
    got = sum(int(end) - int(start) + 1 for start, end in (each[6:].split("-") for each in ranges))
    assert len(shard.keys) == 40
    assert got < len(data) / 2, f"{got} of {len(data)} bytes were read for a footer"


def test_a_worker_asks_for_nothing_but_what_it_reads(hub: Hub) -> None:
    (train,) = listed(source_of(split="train"))
    hub.asked.clear()
    title(source_of(split="train"), train, 0)
    assert not [path for _, path, _ in hub.asked if path == "/api/datasets/org/set"]


def test_splits_and_configs_of_the_card(hub: Hub) -> None:
    hub.card = {
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]},
            {"config_name": "small", "data_files": [{"split": "dev", "path": ["data/test-*"]}]},
        ]
    }
    assert [shard.name for shard in listed(source_of())] == [f"org--set/{TRAIN}"]
    assert [shard.name for shard in listed(source_of(hub_config="small", split="dev"))] == [f"org--set/{TEST}"]
    with pytest.raises(
        SourceError, match=r"has no parquet file for dataset.hub_config 'small' and dataset.split 'train'"
    ):
        listed(source_of(hub_config="small", split="train"))


def test_an_empty_split_names_what_there_is(hub: Hub) -> None:
    with pytest.raises(SourceError, match=r"no parquet file for dataset.split 'validation'.*It has data/test-00000"):
        listed(source_of(split="validation"))


def test_a_dataset_that_does_not_exist(hub: Hub) -> None:
    with pytest.raises(SourceError, match="does not exist on the hub, or is private"):
        listed(source_of("hf://org/sett"))


def test_a_revision_that_does_not_exist(hub: Hub) -> None:
    with pytest.raises(SourceError, match="has no such revision"):
        listed(source_of(revision="nope"))


def test_a_gated_dataset_needs_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(SourceError, match="is gated: accept its terms") as caught:
        listed(source_of())
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert len(listed(source_of())) == 2
    assert hub.token not in str(caught.value)


def test_no_parquet_says_what_to_do(hub: Hub) -> None:
    hub.commits[FIRST] = {"images/one.jpg": b"x", "images/two.png": b"x"}
    with pytest.raises(SourceError, match=r"It holds 2 pictures as files.*refs/convert/parquet"):
        listed(source_of())


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_is_asked_again(hub: Hub, status: int) -> None:
    (train,) = listed(source_of(split="train"))
    hub.fail[TRAIN] = [status, status]
    assert title(source_of(split="train"), train, 1) == "train 1"
    assert hub.fail[TRAIN] == []


def test_a_connection_that_is_cut_is_no_end(hub: Hub) -> None:
    (train,) = listed(source_of(split="train"))
    hub.fail[TRAIN] = [-1] * 50
    source = source_of(split="train")
    with pytest.raises(ReadError) as caught:
        title(source, train, 1)
    assert caught.value.fault == "network"
    hub.fail[TRAIN] = []
    assert title(source, train, 1) == "train 1"


def test_a_file_that_is_gone_at_its_commit(hub: Hub) -> None:
    (train,) = listed(source_of(split="train"))
    hub.commits[FIRST] = {TEST: b""}
    hub_library.HfFileSystem.clear_instance_cache()
    with pytest.raises(ReadError) as caught:
        title(source_of(split="train"), train, 1)
    assert caught.value.reason in (ReadReason.UNREADABLE, ReadReason.CHANGED)


@pytest.mark.parametrize("address", ["hf://org", "hf://org/set@", "hf://../etc/passwd", "s3://bucket/a.parquet"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(SourceError, match=r"is no dataset of the hub|is not of the hub"):
        source_of(address, source="huggingface")


def test_a_picture_that_a_row_names_is_of_the_dataset(hub: Hub) -> None:
    out = io.BytesIO()
    rows = [{"bytes": None, "path": path} for path in ("pics/one.jpg", "../other.jpg", "/etc/passwd")]
    pq.write_table(pa.table({"image": rows}), out)
    hub.commits[FIRST] = {"data/a.parquet": out.getvalue(), "data/pics/one.jpg": b"picture", "other.jpg": b"no"}
    source = source_of()
    (shard,) = listed(source)
    items = [
        Item(index, key, locator) for index, (key, locator) in enumerate(zip(shard.keys, shard.locators, strict=True))
    ]
    assert source.read(shard.name, items[0]).data == b"picture"
    for item in items[1:]:
        with pytest.raises(ReadError) as caught:
            source.read(shard.name, item)
        assert caught.value.reason == ReadReason.OUTSIDE
