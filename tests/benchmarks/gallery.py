"""How long `cfbus view` takes over a large store: until its first page, and for the pages that people ask for most.

    python tests/benchmarks/gallery.py [--rows 10000000] [--write-docs]

The rows are made up, in segments of a million with the schema of real ones, captions of about 100 characters. Every
question is asked of the application itself, without a browser; the least of three is taken for all but the first.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import layout  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from cfbus.gallery.app import make_app  # noqa: E402
from cfbus.gallery.pictures import Pictures  # noqa: E402
from cfbus.gallery.query import Gallery  # noqa: E402
from cfbus.store.folder import Store  # noqa: E402
from cfbus.store.manifest import Manifest  # noqa: E402
from cfbus.store.manifest_rows import SegmentRow  # noqa: E402
from cfbus.store.schema import SCHEMAS  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- gallery: begin -->", "<!-- gallery: end -->"
SEGMENT, SHARD = 1_000_000, 10_000
WORDS = (
    *("a", "grey", "bird", "on", "an", "old", "wall", "near", "the", "sea", "with", "two", "red", "boats"),
    *("and", "some", "people", "who", "look", "at", "it", "from", "afar"),
)
ASKED = {
    "the newest": "/",
    "the order of the dataset": "/?order=dataset",
    "a page from the middle": "/?order=dataset&after=made-00500&at=0&index=0",
    "a word that many captions have": "/?q=boats",
    "a word that one caption has": "/?q=number+1234567+",
    "a contributor": "/?contributor=c3",
    "one item": "/item?shard=made-00123&index=4567",
    "the figures": "/live.json",
}


def segment(number: int, dice: np.random.Generator) -> pa.Table:
    """A million rows, one slot."""
    first = number * SEGMENT
    rows = np.arange(first, first + SEGMENT)
    texts = [f"number {row} " + " ".join(WORDS[at] for at in picks) for row, picks in zip(
        rows.tolist(), dice.integers(0, len(WORDS), (SEGMENT, 16)).tolist(), strict=True)]  # fmt: skip
    shards = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(np.arange(SEGMENT // SHARD), SHARD), pa.int32()),
        pa.array([f"made-{first // SHARD + at:05d}" for at in range(SEGMENT // SHARD)]),
    )
    made = {
        "shard": shards, "item_index": pa.array(rows % SHARD), "item_key": pa.array([f"{row:08d}.jpg" for row in rows]),
        "caption": pa.array(texts), "commit_seq": pa.array(rows // 64 + 1),
        "revision": pa.array(np.ones(SEGMENT), pa.int32()),
        "slot": _word("caption"), "finish_reason": _word("stop"), "model": _word("made-up"), "dataset": _word("made"),
        "contributor_id": pa.DictionaryArray.from_arrays(
            pa.array(rows % 8, pa.int32()), pa.array([f"c{at}" for at in range(8)])
        ),
        "timestamp": pa.array(1_760_000_000_000_000 + rows * 1000, pa.timestamp("us", tz="UTC")),
    }  # fmt: skip
    schema = SCHEMAS["captions"]
    return pa.table([made.get(field.name, pa.nulls(SEGMENT, field.type)) for field in schema], schema=schema)


def _word(word: str) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(SEGMENT), pa.int32()), pa.array([word]))


def make_store(path: Path, rows: int) -> None:
    """A store that only has sealed rows."""
    dice = np.random.default_rng(1)
    with Store.open(path, "made", create=True) as store:
        manifest = Manifest.open(store)
        manifest.add_pass(["caption"])
        for number in range(rows // SEGMENT):
            first = number * SEGMENT // 64 + 1
            file = store.table_path("captions", first)
            pq.write_table(segment(number, dice), file, compression="zstd", compression_level=3, row_group_size=100_000)
            last, name = (number + 1) * SEGMENT // 64, str(file.relative_to(store.root))
            done = np.zeros((0, 4), np.int64)
            row = SegmentRow(first, last, (name,), SEGMENT, 0, file.stat().st_size, 0, {"c": SEGMENT})
            manifest.add_segment(row, done)
        manifest.close()


def measure(path: Path) -> list[list[str]]:
    """The rows of the table."""
    found = []
    began = time.perf_counter()
    gallery = Gallery(path)
    store = Store.peek(path)
    client = TestClient(make_app("made", gallery, Pictures(store, None, "none"), ["testserver"], None))
    assert 'class="card"' in client.get("/").text
    found.append(
        ["from the start until the first page, figures and choices included", f"{time.perf_counter() - began:.2f}"]
    )
    for what, address in ASKED.items():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            assert client.get(address).status_code == 200
            times.append(time.perf_counter() - began)
        found.append([what, f"{min(times):.2f}"])
    return found


def main() -> None:
    """Do what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    flags = parser.parse_args()
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    with tempfile.TemporaryDirectory(prefix="cfbus-bench-") as folder:
        path = Path(folder) / "store"
        make_store(path, flags.rows)
        at = machine(ROOT, path)
        rows = measure(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    text = (
        f"{now}, revision {at.revision}, {at.cores} cores of {at.processor}; {flags.rows:,} captions;"
        f" at most {peak:,} MiB, with the making of the store.\n\n{layout.table([['', 'seconds'], *rows])}"
    )
    sys.stdout.write(f"{text}\n")
    if flags.write_docs:
        layout.put(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
