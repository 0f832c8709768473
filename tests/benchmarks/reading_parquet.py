"""How fast tables with images are read, against pyarrow reading the same columns plainly; on one core each.

`.venv/bin/python tests/benchmarks/reading_parquet.py`
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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


def by_bytes(path: Path) -> int:
    """The file, read from start to end."""
    with path.open("rb", buffering=0) as file:
        return sum(len(piece) for piece in iter(lambda: file.read(1 << 20), b""))


WAYS: dict[str, Callable[[Path], int]] = {"source": by_source, "pyarrow": by_pyarrow, "bytes": by_bytes}


def measure(way: str, path: Path) -> str:
    """Runs in a process of its own: rate per core, and the most memory."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory, which began as that of the parent
    idle = _most_memory()
    total = WAYS[way](path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{total / cpu / 1e6:8,.0f} MB per core-second, {(_most_memory() - idle) >> 10:5,} MiB more memory"


def _most_memory() -> int:
    """The most that this process had in memory, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def main() -> None:
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], Path(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory(prefix="cfbus-bench-") as folder:
        for name, (images, size, group) in SHAPES.items():
            path = Path(folder) / "a.parquet"
            make(path, images, size, group)
            by_bytes(path)  # into the page cache
            for way in WAYS:
                began = time.monotonic()
                said = subprocess.run(
                    [sys.executable, __file__, way, str(path)], check=True, capture_output=True, text=True
                ).stdout.strip()
                took = time.monotonic() - began
                print(f"{name}, {group} in a row group, {way:8} {said}, {images / took:8,.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
