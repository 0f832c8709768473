"""How fast captions are exported and compacted, beside each format's own library writing the same rows from memory.

python tests/benchmarks/exporting.py [--rows N] [--memory-rows N]
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

import cfbus  # noqa: E402
from cfbus.exports.request import Format, Request  # noqa: E402
from cfbus.store.compaction import compact  # noqa: E402
from cfbus.store.folder import Store  # noqa: E402
from cfbus.store.listing import write_listing  # noqa: E402
from cfbus.store.manifest import Manifest  # noqa: E402
from cfbus.store.manifest_rows import SegmentRow, ShardRow, merge_ranges  # noqa: E402
from cfbus.store.schema import SCHEMAS  # noqa: E402
from cfbus.store.seal import parquet_writer  # noqa: E402

SHARD = 10_000
WORDS = np.array("a bird of blue and green that sits on the branch in front of an old grey house".split())  # noqa: SIM905
CAPTION_WORDS = 20


def fill(root: Path, rows: int, segment_rows: int) -> None:
    """A store of so many captions, one slot, in segments of so many rows."""
    rng = np.random.default_rng(7)
    with Store.open(root, "birds", create=True) as store:
        manifest = Manifest.open(store)
        manifest.add_pass(["short"])
        for number in range(rows // SHARD):
            keys = [f"{number:06d}/{item:06d}.jpg" for item in range(SHARD)]
            digest = write_listing(store, number, keys, [b""] * SHARD)
            manifest.add_shards([ShardRow(number, f"birds-{number:06d}", SHARD, digest)])
        for position, start in enumerate(range(0, rows, segment_rows), 1):
            count = min(segment_rows, rows - start)
            path = store.table_path("captions", position)
            with open(path, "wb") as file, parquet_writer(file, "captions") as writer:
                writer.write_table(_rows(rng, start, count, position), row_group_size=100_000)
            first, last = start // SHARD, (start + count - 1) // SHARD
            done = [(1, shard, 0, SHARD) for shard in range(first, last + 1)]
            name = str(path.relative_to(root))
            segment = SegmentRow(position, position, (name,), count, 0, path.stat().st_size, 1, {"ann": count})
            manifest.add_segment(segment, merge_ranges(done))
        manifest.close()


def _rows(rng: np.random.Generator, start: int, count: int, position: int) -> pa.Table:
    items = np.arange(start, start + count)
    words = WORDS[rng.integers(0, len(WORDS), (count, CAPTION_WORDS))]
    shards = [f"birds-{number:06d}" for number in items // SHARD]
    keys = [f"{item // SHARD:06d}/{item % SHARD:06d}.jpg" for item in items]
    columns: dict[str, object] = {
        "dataset": ["birds"] * count, "shard": shards, "item_key": keys, "item_index": items % SHARD,
        "filename": [key[7:] for key in keys], "caption": [" ".join(row) for row in words], "slot": ["short"] * count,
        "revision": [1] * count, "commit_seq": [position] * count, "contributor_id": ["ann"] * count,
        "model": ["some/model"] * count, "finish_reason": ["stop"] * count, "flags": [[]] * count,
        "output_tokens": [CAPTION_WORDS] * count,
    }  # fmt: skip
    schema = SCHEMAS["captions"]
    arrays = [
        pa.array(columns[one.name]).cast(one.type) if one.name in columns else pa.nulls(count, one.type)
        for one in schema
    ]
    return pa.table(arrays, schema=schema)


def by_cfbus(kind: str, root: Path, out: Path) -> tuple[float, int]:
    """Seconds of the whole command, and the most memory in MiB."""
    began = time.monotonic()
    line = [sys.executable, "-m", "cfbus.tools.main", "export", str(root), str(out), "--format", kind]
    code = f"import subprocess,resource,sys;subprocess.run({line!r},check=True,stdout=2);"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, cwd=ROOT)
    return time.monotonic() - began, int(done.stdout) >> 10


def by_library(kind: str, root: Path, out: Path) -> float:
    """Seconds for the same rows and columns, which are in memory before the clock starts."""
    rows = cfbus.open(root).arrow(columns=list(Request(Format(kind)).columns_of_rows()))
    if kind == "parquet":
        return timed(lambda: pq.write_table(rows, out / "x.parquet", compression="zstd"))
    plain = rows.to_pylist()
    writers: dict[str, Callable[[], None]] = {
        "jsonl": lambda: _jsonl(plain, out), "csv": lambda: _csv(plain, out), "txt": lambda: _txt(plain, out),
        "webdataset": lambda: _tars(plain, out),
    }  # fmt: skip
    return timed(writers[kind])


def timed(act: Callable[[], object]) -> float:
    """How many seconds something takes."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


Rows = list[dict[str, object]]


def _jsonl(rows: Rows, out: Path) -> None:
    with open(out / "x.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _csv(rows: Rows, out: Path) -> None:
    with open(out / "x.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _txt(rows: Rows, out: Path) -> None:
    for row in rows:
        path = out / f"{row['item_key']}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{row['caption']}\n", encoding="utf-8")


def _tars(rows: Rows, out: Path) -> None:
    import webdataset as wds

    for start in range(0, len(rows), SHARD):
        with wds.TarWriter(str(out / f"{start}.tar"), encoder=False) as tar:
            for row in rows[start : start + SHARD]:
                told = {"short": {"caption": row["caption"], "model": row["model"]}}
                texts = {"short.txt": str(row["caption"]).encode(), "captions.json": json.dumps(told).encode()}
                tar.write({"__key__": str(row["item_key"])[:-4], **texts})


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--memory-rows", type=int, default=10_000_000)
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cfbus-exporting-") as folder:
        root = Path(folder) / "store"
        if flags.rows:
            fill(root, flags.rows, 100_000)
            for kind in map(str, Format):
                _compare(kind, root, Path(folder), flags.rows)
            _compaction(Path(folder), flags.rows)
            shutil.rmtree(root)
        if flags.memory_rows:
            fill(root, flags.memory_rows, 500_000)
            for kind in ("parquet", "jsonl", "csv"):
                seconds, memory = by_cfbus(kind, root, Path(folder) / "large")
                shutil.rmtree(Path(folder) / "large")
                rate = flags.memory_rows / seconds
                print(f"{kind}, {flags.memory_rows:,} rows: {rate:,.0f} rows/s, {memory:,} MiB at most", flush=True)
    return 0


def _compare(kind: str, root: Path, folder: Path, rows: int) -> None:
    out, other = folder / "out", folder / "library"
    other.mkdir()
    ours, memory = by_cfbus(kind, root, out)
    theirs = by_library(kind, root, other)
    shutil.rmtree(out)
    shutil.rmtree(other)
    said = f"{kind}, {rows:,} rows: {rows / ours:,.0f} rows/s, {memory:,} MiB at most; its library {rows / theirs:,.0f}"
    print(f"{said}: {theirs / ours:.2f}", flush=True)


def _compaction(folder: Path, rows: int) -> None:
    root = folder / "small"
    fill(root, rows, 10_000)
    size = sum(path.stat().st_size for path in (root / "captions").iterdir())
    seconds = timed(lambda: compact(Store.peek(root), 1, 0))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"compaction: {rows / seconds:,.0f} rows/s, {size / seconds / 2**20:,.1f} MiB/s; this process {memory:,} MiB")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
