"""Parquet files with images, as `datasets` writes them and as others do."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cfbus.config_dataset import Dataset
from cfbus.errors import SourceError
from cfbus.sources.base import Content, Item, Known, ListedShard, NothingKnown, ReadError, ReadReason, Source
from cfbus.sources.opening import open_source

datasets = pytest.importorskip("datasets")


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 40 % 256, number * 80 % 256, 30)).save(out, "PNG")
    return out.getvalue()


def written_by_datasets(path: Path, count: int, **more: Any) -> None:
    """Several row groups, an Image feature, a label, a title."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "title": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "size": datasets.Value("float32"),
        }
    )
    rows = {
        "image": [{"bytes": picture(n), "path": None} for n in range(count)],
        "title": [f"picture {n}" for n in range(count)],
        "label": [n % 2 for n in range(count)],
        "size": [n / 2 for n in range(count)],
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path), batch_size=4)


def source_of(*paths: Path, **keys: Any) -> Source:
    return open_source(Dataset(paths=tuple(paths), source="huggingface", **keys))


def listed(source: Source, known: Known | None = None) -> list[ListedShard]:
    return list(source.shards(known or NothingKnown()))


def items_of(shard: ListedShard) -> list[Item]:
    pairs = zip(shard.keys, shard.locators, strict=True)
    return [Item(index, key, locator) for index, (key, locator) in enumerate(pairs)]


def contents(source: Source) -> list[Content]:
    return [source.read(shard.name, item) for shard in listed(source) for item in items_of(shard)]


def left_out(source: Source) -> list[str]:
    return [thing.reason for thing in source.left_out.things]


def test_rows_of_several_files_and_row_groups(tmp_path: Path) -> None:
    written_by_datasets(tmp_path / "data/train-00000-of-00002.parquet", 10)
    written_by_datasets(tmp_path / "data/train-00001-of-00002.parquet", 7)
    source = source_of(tmp_path / "data")
    shards = listed(source)
    assert [(shard.name, len(shard.keys)) for shard in shards] == [
        ("data/train-00000-of-00002.parquet", 10),
        ("data/train-00001-of-00002.parquet", 7),
    ]
    assert shards[0].keys[:2] == ["000000", "000001"]
    found = contents(source)
    assert [each.data for each in found] == [picture(n) for n in [*range(10), *range(7)]]
    assert dict(found[3].columns) == {"title": "picture 3", "label": "dog", "size": 1.5}
    source.close()


def test_a_listing_reads_footers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_by_datasets(tmp_path / "a.parquet", 10)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("rows were read")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", never)
    assert len(listed(source_of(tmp_path / "a.parquet"))[0].keys) == 10


def test_a_row_group_is_read_once_for_a_whole_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_by_datasets(tmp_path / "a.parquet", 10)
    source = source_of(tmp_path / "a.parquet")
    (shard,) = listed(source)
    groups: list[int] = []
    real = pq.ParquetFile.read_row_group

    def counted(self: Any, number: int, **more: Any) -> Any:
        groups.append(number)
        return real(self, number, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for item in items_of(shard):
        source.read(shard.name, item)
    assert groups == [0, 1, 2]


def test_keys_from_a_column(tmp_path: Path) -> None:
    written_by_datasets(tmp_path / "a.parquet", 5)
    (shard,) = listed(source_of(tmp_path / "a.parquet", key_column="title"))
    assert shard.keys == [f"picture {n}" for n in range(5)]


def test_only_the_split_that_is_asked_for(tmp_path: Path) -> None:
    for name in ("train-00000", "test-00000", "validation-00000"):
        written_by_datasets(tmp_path / f"{name}-of-00001.parquet", 2)
    (shard,) = listed(source_of(tmp_path, split="test"))
    assert shard.name.endswith("/test-00000-of-00001.parquet")
    with pytest.raises(SourceError, match="no parquet file with images"):
        listed(source_of(tmp_path, split="dev"))


def plain(path: Path, columns: dict[str, Sequence[object]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["jpg", "image", "IMG"])
def test_plain_bytes_under_a_usual_name(tmp_path: Path, name: str) -> None:
    path = plain(tmp_path / "a.parquet", {"id": [1, 2], name: [picture(1), picture(2)]})
    assert [each.data for each in contents(source_of(path))] == [picture(1), picture(2)]


def test_a_column_that_is_named(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.parquet", {"jpg": [picture(1)], "depth": [picture(2)]})
    assert contents(source_of(path, image_column="depth"))[0].data == picture(2)


def test_pictures_beside_the_table_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(picture(1))
    (tmp_path / "secret.jpg").write_bytes(picture(2))
    rows = [
        {"bytes": None, "path": path} for path in ("one.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "no.jpg")
    ]
    source = source_of(plain(folder / "a.parquet", {"image": rows}))
    (shard,) = listed(source)
    first, up, absolute, missing = items_of(shard)
    assert source.read(shard.name, first).data == picture(1)
    for item in (up, absolute):
        with pytest.raises(ReadError) as caught:
            source.read(shard.name, item)
        assert caught.value.reason == ReadReason.OUTSIDE
    with pytest.raises(ReadError) as caught:
        source.read(shard.name, missing)
    assert caught.value.fault == "item"


def test_a_row_without_an_image_is_its_own_fault(tmp_path: Path) -> None:
    source = source_of(plain(tmp_path / "a.parquet", {"image": [picture(1), None]}))
    (shard,) = listed(source)
    with pytest.raises(ReadError) as caught:
        source.read(shard.name, items_of(shard)[1])
    assert (caught.value.fault, caught.value.detail) == ("item", "Its row has no image.")


def test_columns_as_json_has_them(tmp_path: Path) -> None:
    import datetime

    path = plain(
        tmp_path / "a.parquet",
        {
            "image": [picture(1)],
            "when": [datetime.datetime(2026, 1, 2, 3, 4)],
            "mask": [b"\0\1"],
            "boxes": [[{"x": 1.0, "raw": b"\0"}]],
            "score": [float("nan")],
            "none": [None],
        },
    )
    columns = dict(contents(source_of(path))[0].columns)
    assert columns == {"when": "2026-01-02 03:04:00", "boxes": [{"x": 1.0}], "score": None, "none": None}


def test_a_file_with_another_schema_is_left_out_as_a_whole(tmp_path: Path) -> None:
    written_by_datasets(tmp_path / "1.parquet", 3)
    plain(tmp_path / "2.parquet", {"caption": ["no picture here"]})
    written_by_datasets(tmp_path / "3.parquet", 3)
    source = source_of(tmp_path)
    assert len(listed(source)) == 2
    (reason,) = left_out(source)
    assert reason == "none of its columns (caption) is known to hold images; say which: dataset.image_column"
    assert source.left_out.grave == 1


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    written_by_datasets(tmp_path / "1.parquet", 3)
    for keys in ({"image_column": "imagee"}, {"key_column": "titel"}):
        with pytest.raises(SourceError, match=r"did you mean '(image|title)'"):
            listed(source_of(tmp_path, **keys))


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_what_is_no_parquet_is_told(tmp_path: Path, damage: str) -> None:
    written_by_datasets(tmp_path / "1.parquet", 3)
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes({"cut": whole[:-100], "text": b"hello" * 9, "empty": b""}[damage])
    source = source_of(tmp_path)
    assert len(listed(source)) == 1
    assert "no parquet file that can be read" in left_out(source)[0]


def test_no_rows_is_no_alarm(tmp_path: Path) -> None:
    written_by_datasets(tmp_path / "1.parquet", 3)
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "2.parquet")
    source = source_of(tmp_path)
    assert len(listed(source)) == 1
    assert left_out(source) == ["it has no rows"]
    assert source.left_out.grave == 0


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written_by_datasets(path, 4)
    source = source_of(path)
    (shard,) = listed(source)
    source.read(shard.name, items_of(shard)[0])
    os.utime(path, ns=(1, 1))
    with pytest.raises(ReadError) as caught:
        source.read(shard.name, items_of(shard)[1])
    assert (caught.value.reason, caught.value.fault) == (ReadReason.CHANGED, "worker")


@pytest.mark.parametrize("locator", [b"", b"\xff" * 28, b"x" * 27])
def test_a_locator_that_lies(tmp_path: Path, locator: bytes) -> None:
    path = tmp_path / "a.parquet"
    written_by_datasets(path, 4)
    source = source_of(path)
    (shard,) = listed(source)
    with pytest.raises(ReadError):
        source.read(shard.name, Item(0, "k", locator))
    good = shard.locators[0]
    for lie in (b"\xff\xff\xff\x7f" + good[4:], good[:4] + b"\xff\xff\xff\x7f" + good[8:]):
        with pytest.raises(ReadError) as caught:
            source.read(shard.name, Item(0, "k", lie))
        assert caught.value.reason == ReadReason.CHANGED
    with pytest.raises(ReadError) as caught:
        source.read("elsewhere/b.parquet", Item(0, "k", good))
    assert caught.value.reason == ReadReason.SOURCE_MISSING


def test_a_very_long_file_makes_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfbus.sources.huggingface.MOST_ROWS", 8)
    written_by_datasets(tmp_path / "a.parquet", 18)
    source = source_of(tmp_path / "a.parquet")
    shards = listed(source)
    assert [len(shard.keys) for shard in shards] == [8, 8, 2]
    assert [key for shard in shards for key in shard.keys] == [f"{n:06d}" for n in range(18)]
    assert [each.data for each in contents(source)] == [picture(n) for n in range(18)]
