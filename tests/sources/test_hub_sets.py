"""Datasets of the hub as a source: what is listed, which commit is read, how little is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from huggingface_hub import constants
from sources.hub_rig import FIRST, SECOND, FakeHub, cut, says, serving
from sources.known import Listed
from sources.tables_rig import everything, listed, numbers, opened, png, read, table, written

from cfbus.errors import SourceError
from cfbus.sources import hub as hub_module
from cfbus.sources.base import Content, Item, ReadError
from cfbus.sources.table_locators import Origin, TableRow, unpack

CELLS = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_module, "MAX_PAUSE", 0.0)
        yield fake


def parquet(tmp_path: Path, first: int, count: int, group: int = 4) -> bytes:
    return written(tmp_path / f"{first}.parquet", first, count, group).read_bytes()


@pytest.fixture
def two(tmp_path: Path, fake: FakeHub) -> FakeHub:
    files = {f"data/train-{n:05d}-of-00002.parquet": parquet(tmp_path, n * 10, 10) for n in range(2)}
    fake.add("org/set", files | {"data/test-00000-of-00001.parquet": parquet(tmp_path, 50, 4), "README.md": b"# x"})
    return fake


def test_a_dataset_is_listed_and_read_row_by_row(two: FakeHub) -> None:
    source = opened("hf://org/set", split="train")
    assert source.out_of_reach() == ""
    shards = listed(source)
    assert [shard.name for shard in shards] == [f"org--set/data/train-{n:05d}-of-00002.parquet" for n in range(2)]
    assert numbers(everything(source, shards)) == list(range(20))
    (shard,) = listed(opened("hf://datasets/org/set/data/test-*"))
    assert shard.name == "org--set/data/test-00000-of-00001.parquet"
    source.close()


def test_a_listing_fetches_footers_and_a_chunk_its_row_groups_once(fake: FakeHub, tmp_path: Path) -> None:
    images = [bytes([number]) * 300_000 for number in range(12)]
    path = table(tmp_path / "a.parquet", {"image": images}, group=4, compression="none", use_dictionary=False)
    fake.add("org/set", {"a.parquet": path.read_bytes()})
    source = opened("hf://org/set")
    (shard,) = listed(source)
    assert fake.sent < 100_000
    assert fake.times("/resolve/") == 1
    before = fake.sent
    found = [read(source, shard, index) for index in (4, 6, 5, 7)]
    assert [one.data[:1] for one in found if isinstance(one, Content)] == [b"\4", b"\6", b"\5", b"\7"]
    assert 1_200_000 < fake.sent - before < 1_400_000


def test_the_commit_of_the_first_listing_is_kept_to(two: FakeHub, tmp_path: Path) -> None:
    source = opened("hf://org/set", split="train")
    shards = listed(source)
    origin = unpack(shards[0].locators[0]).origin
    assert origin.commit == FIRST
    newer = {f"data/train-{n:05d}-of-00003.parquet": parquet(tmp_path, 100 + n, 5) for n in range(3)}
    two.add("org/set", newer, SECOND)
    assert listed(opened("hf://org/set", split="train"), Listed(shards)) == []
    assert numbers(everything(opened("hf://org/set"), shards)) == list(range(20))
    # Who names another revision gets what is new there; a commit is asked for by nobody's name.
    more = listed(opened(f"hf://org/set@{SECOND}", split="train"), Listed(shards))
    assert {unpack(shard.locators[0]).origin.commit for shard in more} == {SECOND}
    assert len(more) == 3
    two.asked.clear()
    assert numbers(everything(opened("hf://org/set", revision=FIRST), shards)) == list(range(20))
    assert two.times("/revision/") == 0


def test_the_commit_of_another_dataset_whose_name_goes_on_is_not_taken(two: FakeHub, tmp_path: Path) -> None:
    two.add("org/set-more", {"a.parquet": parquet(tmp_path, 60, 4)}, SECOND)
    other = listed(opened("hf://org/set-more"))
    (first, _) = listed(opened("hf://org/set", split="train"), Listed(other))
    assert unpack(first.locators[0]).origin.commit == FIRST


def test_a_worker_reads_only_the_dataset_that_it_names(two: FakeHub) -> None:
    (shard, _) = listed(opened("hf://org/set", split="train"))
    place = unpack(shard.locators[0])
    assert isinstance(place, TableRow)

    def lie(name: str, origin: Origin, *more: str) -> str:
        locator = TableRow(0, 0, place.table, origin).pack()
        source = opened(*(more or ("hf://org/set",)))
        with pytest.raises(ReadError) as caught:
            source.read(name, Item(0, "0", locator))
        return f"{caught.value.reason}/{caught.value.fault}"

    assert lie("other--set/data/a.parquet", place.origin) == "source-missing/worker"
    assert lie("org--set/README.md", place.origin) == "outside/worker"
    assert lie("org--set/../../other/set/resolve/main/a.parquet", place.origin) == "outside/worker"
    assert lie("org--set/.cache/a.parquet", place.origin) == "outside/worker"
    assert lie("org--set/data/gone.parquet", place.origin) == "vanished/item"
    assert lie(shard.name, Origin()) == "source-missing/worker"
    assert lie(shard.name, Origin.of(SECOND, "")) == "source-missing/worker"
    assert lie(shard.name, place.origin, f"hf://org/set@{SECOND}") == "outside/worker"


def test_failures_of_the_network_are_the_networks_and_pass(two: FakeHub) -> None:
    source = opened("hf://org/set", split="train")
    shards = listed(source)
    two.faults["/resolve/"] = cut()
    assert set(numbers([read(source, shards[0], 0)])) == {"connection-failed/network"}
    two.faults["/resolve/"] = says(429, Retry_After="1")
    assert set(numbers([read(source, shards[0], 0)])) == {"http-429/network"}
    two.faults.clear()
    assert numbers(everything(source, shards)) == list(range(20))


def test_a_connection_that_is_cut_in_a_row_group_mixes_nothing(fake: FakeHub, tmp_path: Path) -> None:
    images = [bytes([number]) * 100_000 for number in range(8)]
    path = table(tmp_path / "a.parquet", {"image": images}, group=4, compression="none", use_dictionary=False)
    fake.add("org/set", {"a.parquet": path.read_bytes()})
    source = opened("hf://org/set")
    (shard,) = listed(source)
    assert isinstance(read(source, shard, 0), Content), "the table is open"
    fake.faults["/resolve/"] = cut()
    broken = [read(source, shard, index) for index in (4, 5, 6)]
    assert {f"{one.reason}/{one.fault}" for one in broken if isinstance(one, ReadError)} == {
        "connection-failed/network"
    }
    assert len(broken) == 3
    fake.faults.clear()
    found = everything(source, [shard])
    assert [one.data for one in found if isinstance(one, Content)] == images


def test_what_cannot_be_listed_is_said(two: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the hub has no dataset of this name"):
        listed(opened("hf://org/nothing"))
    assert "no dataset of this name" in opened("hf://org/nothing").out_of_reach()
    with pytest.raises(SourceError, match="no such revision"):
        listed(opened("hf://org/set@v2"))
    with pytest.raises(SourceError, match=r"no split dev \(its splits: test, train\)"):
        listed(opened("hf://org/set", split="dev"))
    with pytest.raises(SourceError, match=r"dataset\.revision says v3"):
        opened("hf://org/set@v2", revision="v3")
    two.add("org/code", {"load.py": b"x", "data.zip": b"x"})
    with pytest.raises(SourceError) as caught:
        listed(opened("hf://org/code"))
    assert "refs/convert/parquet" in caught.value.hint
    two.faults["train-00001"] = says(503)
    source = opened("hf://org/set", split="train")
    assert len(listed(source)) == 1
    (thing,) = source.left_out.things
    assert thing.grave
    assert "the hub answered 503" in thing.reason


def test_an_empty_split_is_said(fake: FakeHub, tmp_path: Path) -> None:
    fake.add("org/set", {"data/train-00000-of-00001.parquet": parquet(tmp_path, 0, 0)})
    with pytest.raises(SourceError, match=r"train-00000-of-00001\.parquet has no rows"):
        listed(opened("hf://org/set"))


def test_the_card_says_which_files_a_configuration_has(two: FakeHub) -> None:
    configs = [
        {"config_name": "a", "data_files": [{"split": "gold", "path": ["data/train-00001*"]}]},
        {"config_name": "b", "data_files": "data/test-*"},
    ]
    two.cards["org/set"] = {"configs": configs}
    (shard,) = listed(opened("hf://org/set", config="a", split="gold"))
    assert shard.name.endswith("train-00001-of-00002.parquet")
    with pytest.raises(SourceError, match=r"several configurations \(a, b\)"):
        listed(opened("hf://org/set"))


def test_the_hubs_own_parquet_of_a_dataset(fake: FakeHub, tmp_path: Path) -> None:
    files = {
        "one/train/0000.parquet": parquet(tmp_path, 0, 4),
        "two/partial-train/0000.parquet": parquet(tmp_path, 9, 4),
    }
    fake.add("org/set", files, branch="refs/convert/parquet")
    (shard,) = listed(opened("hf://org/set", revision="refs/convert/parquet", config="two", split="train"))
    assert shard.name == "org--set/two/partial-train/0000.parquet"


def test_pictures_of_a_dataset_have_the_columns_beside_them(fake: FakeHub) -> None:
    files = {f"train/{number}.png": png(number) for number in range(5)}
    fake.add("org/set", files | {"train/metadata.csv": b"file_name,title\n3.png,three\n", ".gitattributes": b""})
    source = opened("hf://org/set", shard_items=3)
    shards = listed(source)
    assert [(shard.name, len(shard.keys)) for shard in shards] == [("org--set-00000", 3), ("org--set-00001", 2)]
    found = everything(source, shards)
    assert numbers(found) == list(range(5))
    assert [one.columns for one in found if isinstance(one, Content)] == [{}, {}, {}, {"title": "three"}, {}]
    fake.add("org/set", {"train/9.png": png(9)}, SECOND)
    assert listed(source, Listed(shards)) == []


def test_pictures_whose_names_cannot_be_told_are_left_out_and_told(fake: FakeHub) -> None:
    fake.add("org/set", {"a.png": png(0), f"{'x' * 400}.png": png(1), "b\x1b[2J.png": png(2)})
    source = opened("hf://org/set")
    assert [shard.keys for shard in listed(source)] == [["a.png"]]
    assert [(thing.reason, thing.grave) for thing in source.left_out.things] == [
        ("its name has characters that cannot be shown", True),
        ("its name has more than 400 bytes", True),
    ]


def test_images_beside_a_table_come_from_the_same_commit(fake: FakeHub, tmp_path: Path) -> None:
    own = "hf://datasets/org/set"
    paths = [
        "img/1.png",
        f"{own}@{FIRST}/data/img/1.png",
        "../x.png",
        "/x.png",
        "hf://datasets/o/s/x.png",
        "a.txt",
        "2.png",
    ]
    path = table(tmp_path / "a.parquet", {"image": pa.array([{"bytes": None, "path": each} for each in paths], CELLS)})
    fake.add("org/set", {"data/a.parquet": path.read_bytes(), "data/img/1.png": png(1), "x.png": png(2)})
    source = opened("hf://org/set/data/*.parquet")
    (shard,) = listed(source)
    assert numbers(everything(source, [shard])) == [1, 1, *["outside/item"] * 4, "vanished/item"]


def test_two_tables_of_one_name_are_told(fake: FakeHub, tmp_path: Path) -> None:
    data = written(tmp_path / "org--set" / "a.parquet", 0, 4).read_bytes()
    fake.add("org/set", {"a.parquet": data})
    source = opened("hf://org/set", tmp_path / "org--set")
    assert [shard.name for shard in listed(source)] == ["org--set/a.parquet"]
    (left,) = source.left_out.things
    assert left.grave
    assert left.reason == "would have the name of another table, org--set/a.parquet"
