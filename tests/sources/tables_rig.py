"""Tables as `datasets` writes them, and everything that is in a source."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cfbus.config_downloads import Downloading
from cfbus.sources.base import Content, Item, Known, ListedShard, NothingKnown, ReadError, Source
from cfbus.sources.huggingface import HuggingFaceSource
from cfbus.sources.table_columns import Wanted

LABELS = ["cat", "dog"]
datasets.disable_progress_bars()


def png(number: int) -> bytes:
    """A picture that tells its number."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 77)).save(file, "PNG")
    return file.getvalue()


def number_in(data: bytes) -> int:
    """The number of a picture."""
    red, green, blue = Image.open(io.BytesIO(data)).getpixel((0, 0))  # type: ignore[misc]
    assert blue == 77
    return int(red) + int(green) * 256


def written(path: Path, first: int, count: int, group: int = 4) -> Path:
    """Rows ``first`` and so many more, by the library itself, in row groups of ``group``."""
    numbers = range(first, first + count)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=LABELS),
            "title": datasets.Value("string"),
            "score": datasets.Value("float32"),
        }
    )
    rows = {
        "image": [{"bytes": png(number), "path": f"{number}.png"} for number in numbers],
        "label": [number % 2 for number in numbers],
        "title": [f"picture {number}" for number in numbers],
        "score": [number / 4 for number in numbers],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path, batch_size=group)
    return path


def table(path: Path, columns: dict[str, Any], group: int = 4, **more: Any) -> Path:
    """A table by pyarrow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group, **more)
    return path


def opened(*paths: Path | str, image: str = "", url: str = "", key: str = "", **more: Any) -> HuggingFaceSource:
    downloads = Downloading(allow_private_addresses=True, attempts=1)
    return HuggingFaceSource(paths, downloads, Wanted(image, url, key), **more)


def listed(source: Source, known: Known | None = None) -> list[ListedShard]:
    return list(source.shards(known or NothingKnown()))


def everything(source: Source, shards: Sequence[ListedShard]) -> list[Content | ReadError]:
    """What reading each item gives, in order."""
    return [read(source, shard, index) for shard in shards for index in range(len(shard.keys))]


def read(source: Source, shard: ListedShard, index: int) -> Content | ReadError:
    try:
        return source.read(shard.name, Item(index, shard.keys[index], shard.locators[index]))
    except ReadError as error:
        return error


def numbers(contents: Sequence[Content | ReadError]) -> list[int | str]:
    """The pictures' numbers, or the reasons why there are none."""
    return [number_in(one.data) if isinstance(one, Content) else f"{one.reason}/{one.fault}" for one in contents]
