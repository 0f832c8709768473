"""How fast each source lists and reads, against the same bytes read plainly; a feeder against plain TCP; S3 in blocks.

    python tests/benchmarks/reading.py [--quick] [--write-docs]

Everything lies in the page cache or comes from a server on this machine, so what is measured is processor time. The
ratio to reading plainly is what can be compared. ``--write-docs`` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"  # of the processes that are started

from benchmarks import layout, reading_feeder, reading_parquet, reading_tars, reading_urls  # noqa: E402
from benchmarks.figures import Reading, Readings  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from benchmarks.spent import plain, spending  # noqa: E402

from cfbus.sources.base import Item, NothingKnown  # noqa: E402
from cfbus.sources.folder import FolderSource  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- reading: begin -->", "<!-- reading: end -->"
FILE_BYTES = 100_000


def of_folder(folder: Path, count: int) -> Reading:
    """All files of a folder, by one thread."""
    first = folder / "files" / f"{0:06d}.jpg"
    first.parent.mkdir()
    first.write_bytes(bytes(FILE_BYTES))
    for number in range(1, count):
        (first.parent / f"{number:06d}.jpg").hardlink_to(first)
    source = FolderSource([first.parent])
    shards = list(source.shards(NothingKnown()))
    total = 0
    with spending() as spent:
        for shard in shards:
            for index, (key, locator) in enumerate(zip(shard.keys, shard.locators, strict=True)):
                total += len(source.read(shard.name, Item(index, key, locator)).data)
    source.close()
    with spending() as bare:
        assert sum(map(plain, first.parent.iterdir())) == total
    return Reading(
        what=f"a folder of images of {FILE_BYTES // 1000} kB", items=count, bytes=total, seconds=spent.wall,
        cpu_seconds=spent.cpu, plainly="the files, start to end", plain_seconds=bare.wall, plain_cpu_seconds=bare.cpu,
    )  # fmt: skip


def measure(folder: Path, *, quick: bool) -> Readings:
    """Everything, one after the other."""
    count, tars = (1000, 20) if quick else (10_000, 1000)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    read = [
        of_folder(folder, count), reading_tars.reading(folder, count), *reading_parquet.reading(folder),
        *reading_urls.reading(), reading_feeder.reading(folder, count),
    ]  # fmt: skip
    requests = reading_tars.s3_requests(folder, min(count, 2000))
    listed = reading_tars.listing(folder, tars, count)
    return Readings(when=now, machine=machine(ROOT, folder), listed=listed, read=read, s3_requests=requests)


def whole(found: Readings) -> str:
    """The table."""
    head = [
        "",
        "items a second",
        "MB a second of a core",
        "CPU µs an item",
        "against",
        "times its CPU",
        "times its time",
    ]
    rows = [
        [
            one.what, f"{one.items / one.seconds:,.0f}", f"{one.bytes / one.cpu_seconds / 1e6:,.0f}",
            f"{one.cpu_seconds / one.items * 1e6:,.0f}", one.plainly,
            f"{one.cpu_seconds / one.plain_cpu_seconds:.1f}", f"{one.seconds / one.plain_seconds:.1f}",
        ]
        for one in (found.listed, *found.read)
    ]  # fmt: skip
    blocks, single = found.s3_requests
    at = found.machine
    return (
        f"{found.when}, revision {at.revision}, {at.cores} cores of {at.processor}, Python {at.python}.\n\n"
        f"{layout.table([head, *rows])}\n\n"
        f"1,000 images of 20 kB from a tar in S3 take {blocks:.0f} requests in blocks, {single:.0f} item by item."
    )


def main() -> None:
    """Do what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the items and 20 tars, to see that it works")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cfbus-bench-") as folder:
        text = whole(measure(Path(folder), quick=flags.quick))
    sys.stdout.write(f"{text}\n")
    if flags.write_docs:
        layout.put(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
