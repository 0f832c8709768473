"""How fast tars are listed and read, against the same bytes read plainly; and what blocks save in S3.

The tars of the listing are hard links of one. The S3 server is a real one on this machine that copies the whole object
for each request: what counts of it is the number of requests, not the seconds.
"""

from __future__ import annotations

import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.figures import Reading
from benchmarks.spent import plain, spending
from sources.remote_rig import Bucket, s3_environment, s3_server
from sources.tar_rig import items, make_tar

from cfbus.config_downloads import Downloading
from cfbus.sources.base import ListedShard, NothingKnown
from cfbus.sources.remote_blocks import Blocks
from cfbus.sources.remote_files import Piece, RemoteFile, RemoteFiles
from cfbus.sources.tars import TarSource

LISTED_BYTES, READ_BYTES = 64, 20_000


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


def listing(folder: Path, tars: int, each: int) -> Reading:
    """Many tars of many small items."""
    first = made(folder / "many" / "00000.tar", each, LISTED_BYTES)
    for number in range(1, tars):
        (folder / "many" / f"{number:05d}.tar").hardlink_to(first)
    source = TarSource([folder / "many"])
    with spending() as listed:
        count = sum(len(shard.keys) for shard in source.shards(NothingKnown()))
    with spending() as read:
        total = sum(plain(folder / "many" / f"{number:05d}.tar") for number in range(tars))
    source.close()
    return Reading(
        what=f"{tars:,} tars of {each:,} items, listed", items=count, bytes=total, seconds=listed.wall,
        cpu_seconds=listed.cpu, plainly="the files, start to end", plain_seconds=read.wall, plain_cpu_seconds=read.cpu,
    )  # fmt: skip


def reading(folder: Path, count: int) -> Reading:
    """All items of a tar on a disk, by one thread."""
    path = made(folder / "one.tar", count, READ_BYTES)
    source = TarSource([path])
    (shard,) = source.shards(NothingKnown())
    with spending() as read:
        for item in items(shard):
            source.read(shard.name, item)
    with spending() as bare:
        total = plain(path)
    source.close()
    return Reading(
        what=f"a tar of images of {READ_BYTES // 1000} kB", items=count, bytes=total, seconds=read.wall,
        cpu_seconds=read.cpu, plainly="the file, start to end", plain_seconds=bare.wall, plain_cpu_seconds=bare.cpu,
    )  # fmt: skip


def s3_requests(folder: Path, count: int) -> tuple[float, float]:
    """Requests for 1,000 items: in blocks, and item by item."""
    path = made(folder / "s3.tar", count, READ_BYTES)
    with s3_server() as endpoint:
        os.environ.update(s3_environment(endpoint))
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bench", method="PUT")).close()
        Bucket(endpoint, "bench").put("s3.tar", path.read_bytes())
        return _s3_requests(Blocks(), count), _s3_requests(NoBlocks(), count)


def _s3_requests(blocks: Blocks, count: int) -> float:
    files = Counting(Downloading())
    source = TarSource(["s3://bench/s3.tar"], remote=files)
    source._files._blocks = blocks
    (shard,) = source.shards(NothingKnown())
    listed = files.asked
    _read_all(source, shard)
    source.close()
    return (files.asked - listed) / count * 1000


def _read_all(source: TarSource, shard: ListedShard) -> None:
    with ThreadPoolExecutor(source.readers) as pool:
        list(pool.map(lambda item: source.read(shard.name, item), items(shard)))
