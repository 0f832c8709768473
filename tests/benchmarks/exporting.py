"""How fast captions are exported, compacted and chosen for a redo; exports beside each format's own library writing the
same rows from memory.

    python tests/benchmarks/exporting.py [--rows N] [--large-rows N] [--write-docs]

One caption in a hundred ended at its limit; these are what the redo is over.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from benchmarks import layout  # noqa: E402
from benchmarks.machine import machine  # noqa: E402

import cfbus  # noqa: E402
from cfbus.exports.request import Format, Request  # noqa: E402
from cfbus.store.compaction import compact  # noqa: E402
from cfbus.store.folder import Store  # noqa: E402
from cfbus.store.listing import write_listing  # noqa: E402
from cfbus.store.manifest import Manifest  # noqa: E402
from cfbus.store.manifest_rows import SegmentRow, ShardRow, merge_ranges  # noqa: E402
from cfbus.store.schema import SCHEMAS  # noqa: E402
from cfbus.store.seal import parquet_writer  # noqa: E402

PAGE = ROOT / "docs" / "exports.md"
BEGIN, END = "<!-- exporting: begin -->", "<!-- exporting: end -->"
LIBRARIES = {"parquet": "pyarrow", "jsonl": "json", "csv": "csv", "txt": "plain files", "webdataset": "webdataset"}
LARGE = ("parquet", "jsonl", "csv")
SHARD = 10_000
CUT_EVERY = 100
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
        "model": ["some/model"] * count, "flags": [[]] * count,
        "output_tokens": [CAPTION_WORDS] * count,
        "finish_reason": np.where(items % CUT_EVERY, "stop", "length").tolist(),
    }  # fmt: skip
    schema = SCHEMAS["captions"]
    arrays = [
        pa.array(columns[one.name]).cast(one.type) if one.name in columns else pa.nulls(count, one.type)
        for one in schema
    ]
    return pa.table(arrays, schema=schema)


def by_cfbus(kind: str, root: Path, out: Path) -> tuple[float, int]:
    """Seconds of the whole command, and the most memory in MiB."""
    return command("main", "export", str(root), str(out), "--format", kind)


def command(tool: str, *arguments: str) -> tuple[float, int]:
    """Run one of the product's commands; its seconds, and its most memory in MiB."""
    began = time.monotonic()
    line = [sys.executable, "-m", f"cfbus.tools.{tool}", *arguments]
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


def exports(folder: Path, rows: int, large_rows: int) -> list[list[str]]:
    """A row for each format: of few captions beside its library, and of many."""
    found = {
        kind: [kind, *compare(kind, folder / "store", folder, rows), LIBRARIES[kind], "", ""] for kind in LIBRARIES
    }
    for kind in LARGE if large_rows else ():
        seconds, memory = by_cfbus(kind, folder / "large" / "captions", folder / "out")
        shutil.rmtree(folder / "out")
        found[kind][-2:] = [f"{large_rows / seconds:,.0f}", f"{memory:,}"]
    return list(found.values())


def compare(kind: str, root: Path, folder: Path, rows: int) -> list[str]:
    """Rows a second of cfbus and of the format's library, and the ratio."""
    out, other = folder / "out", folder / "library"
    other.mkdir()
    ours, _ = by_cfbus(kind, root, out)
    theirs = by_library(kind, root, other)
    shutil.rmtree(out)
    shutil.rmtree(other)
    return [f"{rows / ours:,.0f}", f"{rows / theirs:,.0f}", f"{theirs / ours:.2f}"]


def compaction(folder: Path, rows: int) -> str:
    """Of small segments."""
    root = folder / "small"
    fill(root, rows, SHARD)
    size = sum(path.stat().st_size for path in (root / "captions").iterdir())
    seconds = timed(lambda: compact(Store.peek(root), 1, 0))
    return (
        f"Compaction of segments of {SHARD:,} rows: {rows / seconds:,.0f} rows a second,"
        f" {size / seconds / 2**20:,.1f} MiB a second."
    )


def redo(folder: Path, rows: int) -> str:
    """All that ended at its limit, on the folder itself: counted, then opened as a pass."""
    bus = folder / "large"
    ask = ["--config", str(bus / "cfbus.yaml"), "--offline", "requeue", "--where", "finish_reason = 'length'", "--yes"]
    counted, _ = command("admin", *ask, "--dry-run")
    opened, memory = command("admin", *ask)
    return (
        f"`cfbus-admin requeue` of {rows // CUT_EVERY:,} captions, each by itself among {rows:,}: counted in"
        f" {counted:.1f} s, opened in {opened:.1f} s, {memory:,} MiB at most."
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, print the tables, and put them into the page if that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--large-rows", type=int, default=10_000_000)
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/exports.md")
    flags = parser.parse_args(arguments)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    with tempfile.TemporaryDirectory(prefix="cfbus-exporting-") as name:
        folder = Path(name)
        at = machine(ROOT, folder)
        fill(folder / "store", flags.rows, 100_000)
        if flags.large_rows:
            settings = ["dataset.name=birds", "dataset.source=scripted", "dataset.items=1", "captions.engine=scripted",
                        "captions.slots.short.prompt=Describe it."]  # fmt: skip
            sets = [word for setting in settings for word in ("--set", setting)]
            command("main", "init", str(folder / "large"), *sets)
            fill(folder / "large" / "captions", flags.large_rows, 500_000)
        head = ["rows a second", f"{flags.rows:,} rows", "its library", "times", "the library"]
        head += [f"{flags.large_rows:,} rows", "most MiB"]
        table = layout.table([head, *exports(folder, flags.rows, flags.large_rows)])
        said = [compaction(folder, flags.rows), *([redo(folder, flags.large_rows)] if flags.large_rows else [])]
    text = "\n\n".join([f"{now}, {layout.on_machine(at)}.", table, *said])
    sys.stdout.write(f"{text}\n")
    if flags.write_docs:
        layout.put(PAGE, BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
