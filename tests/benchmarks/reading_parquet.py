"""How fast tables with images are read, against pyarrow reading the same columns plainly; each in its own process.

`python -m benchmarks.reading_parquet WAY FILE` prints seconds, processor seconds, bytes, and MiB of memory.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.figures import Reading
from benchmarks.spent import elsewhere, plain, spending

from cfbus.config_downloads import Downloading
from cfbus.sources.base import Item, NothingKnown
from cfbus.sources.huggingface import HuggingFaceSource
from cfbus.sources.table_columns import Wanted

SHAPES = {
    "100 kB images": (6000, 100_000, 100),
    "1 MB images": (600, 1_000_000, 100),
    "8 kB images": (60_000, 8_000, 1000),
}
"""Images, bytes of each, rows in a row group."""


def make(path: Path, images: int, size: int, group: int) -> None:
    """A table as `datasets` writes them: snappy, the image a struct."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": kind, "title": pa.string(), "label": pa.int64()})
    noise = os.urandom(size + images)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, images, group):
            rows = range(start, min(start + group, images))
            cells = [{"bytes": noise[row : row + size], "path": f"{row}.jpg"} for row in rows]
            columns = [pa.array(cells, kind), pa.array([f"picture {row}" for row in rows]), pa.array(list(rows))]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def by_source(path: Path) -> int:
    """As a worker reads it, item by item."""
    source = HuggingFaceSource([path], Downloading(), Wanted())
    total = 0
    for shard in source.shards(NothingKnown()):
        for index, locator in enumerate(shard.locators):
            total += len(source.read(shard.name, Item(index, shard.keys[index], locator)).data)
    source.close()
    return total


def by_pyarrow(path: Path) -> int:
    """Whole row groups, every image as bytes and every other column as a value of Python."""
    table = pq.ParquetFile(path)
    total = 0
    for group in range(table.num_row_groups):
        rows = table.read_row_group(group, use_threads=False)
        for row in rows.to_pylist():
            total += len(row["image"]["bytes"])
    return total


WAYS: dict[str, Callable[[Path], int]] = {"source": by_source, "pyarrow": by_pyarrow}


def measure(way: str, path: Path) -> list[float]:
    """In a process of its own."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory, which began as that of the parent
    idle = _most_memory()
    with spending() as spent:
        total = WAYS[way](path)
    return [spent.wall, spent.cpu, total, (_most_memory() - idle) / 1024]


def _most_memory() -> int:
    """The most that this process had in memory, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def reading(folder: Path) -> list[Reading]:
    """All shapes."""
    found = []
    for name, (images, size, group) in SHAPES.items():
        path = folder / "a.parquet"
        make(path, images, size, group)
        plain(path)  # into the page cache
        mine, theirs = (elsewhere("reading_parquet", way, path) for way in WAYS)
        found.append(
            Reading(
                what=f"parquet, {name}, {group:,} in a row group ({mine[3]:.0f} MiB; pyarrow: {theirs[3]:.0f})",
                items=images, bytes=int(mine[2]), seconds=mine[0], cpu_seconds=mine[1],
                plainly="row groups by pyarrow, as Python values", plain_seconds=theirs[0], plain_cpu_seconds=theirs[1],
            )
        )  # fmt: skip
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
