"""How fast tars are listed and read, against the same bytes read plainly; and what blocks save in S3.

Three figures, each with its ratio: a listing of many tars (hard links of one), the reading of all items of a tar on a
disk by one thread, and the reading of items from a real S3 server on this machine, by blocks and item by item. That
server copies the whole object for each request: what counts of it is the number of requests, not the seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from sources.remote_rig import Bucket, s3_environment, s3_server  # noqa: E402
from sources.tar_rig import items, make_tar  # noqa: E402

from cfbus.config_downloads import Downloading  # noqa: E402
from cfbus.sources.base import ListedShard, NothingKnown  # noqa: E402
from cfbus.sources.remote_blocks import Blocks  # noqa: E402
from cfbus.sources.remote_files import Piece, RemoteFile, RemoteFiles  # noqa: E402
from cfbus.sources.tars import TarSource  # noqa: E402

LISTED_BYTES, READ_BYTES = 64, 20_000


class Spent:
    """Seconds of the clock and of the processor."""

    wall = cpu = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    spent = Spent()
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu


class Counting(RemoteFiles):
    """Counts requests."""

    asked = 0

    def ask(self, address: str, offset: int, size: int, version: str) -> Piece:
        self.asked += 1
        return super().ask(address, offset, size, version)


class NoBlocks(Blocks):
    """Each item for itself."""

    def read(self, file: RemoteFile, offset: int, size: int) -> bytes:
        return file.read(offset, size)


def made(path: Path, count: int, size: int) -> Path:
    return make_tar(path, ((f"{n:06d}.jpg", os.urandom(size)) for n in range(count)))


def plain(path: Path) -> int:
    """All bytes, as they lie."""
    total = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            total += len(data)
    return total


def listing(folder: Path, tars: int, each: int) -> None:
    first = made(folder / "many" / "00000.tar", each, LISTED_BYTES)
    for number in range(1, tars):
        (folder / "many" / f"{number:05d}.tar").hardlink_to(first)
    source = TarSource([folder / "many"])
    with spending() as listed:
        count = sum(len(shard.keys) for shard in source.shards(NothingKnown()))
    with spending() as read:
        for number in range(tars):
            plain(folder / "many" / f"{number:05d}.tar")
    source.close()
    rate, ratio = count / listed.wall, listed.cpu / read.cpu
    print(f"listing {tars} tars of {each} items: {listed.wall:.1f} s, {rate:,.0f} items/s;")
    print(f"  {1000 * listed.wall / tars:.0f} ms a tar; {ratio:.0f} times the processor time of reading them")


def reading(folder: Path, count: int) -> None:
    path = made(folder / "one.tar", count, READ_BYTES)
    source = TarSource([path])
    (shard,) = source.shards(NothingKnown())
    with spending() as read:
        for item in items(shard):
            source.read(shard.name, item)
    with spending() as bare:
        total = plain(path)
    source.close()
    rate, megabytes = count / read.cpu, total / read.cpu / 1e6
    print(f"reading {count} items of {READ_BYTES} bytes: {rate:,.0f} items/s, {megabytes:,.0f} MB/s per core;")
    print(f"  {read.cpu / bare.cpu:.1f} times the processor time of reading the file")


def s3(folder: Path, count: int) -> None:
    path = made(folder / "s3.tar", count, READ_BYTES)
    with s3_server() as endpoint:
        os.environ.update(s3_environment(endpoint))
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bench", method="PUT")).close()
        Bucket(endpoint, "bench").put("s3.tar", path.read_bytes())
        for said, blocks in (("by blocks", Blocks()), ("item by item", NoBlocks())):
            files = Counting(Downloading())
            source = TarSource(["s3://bench/s3.tar"], remote=files)
            source._files._blocks = blocks
            (shard,) = source.shards(NothingKnown())
            listed = files.asked
            spent = _read_all(source, shard)
            print(
                f"S3, {said}: {(files.asked - listed) / count * 1000:.0f} requests and {spent / count * 1000:.2f} s"
                f" for 1,000 items; listed with {listed} requests"
            )
            source.close()


def _read_all(source: TarSource, shard: ListedShard) -> float:
    with spending() as spent, ThreadPoolExecutor(source.readers) as pool:
        list(pool.map(lambda item: source.read(shard.name, item), items(shard)))
    return spent.wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tars", type=int, default=1000)
    parser.add_argument("--items", type=int, default=10_000, help="items of each tar")
    parser.add_argument("--read", type=int, default=10_000, help="items that are read")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cfbus-bench-") as work:
        reading(Path(work), given.read)
        s3(Path(work), min(given.read, 2000))
        listing(Path(work), given.tars, given.items)


if __name__ == "__main__":
    main()
