"""Images of a folder from a real feeder, with CURVE, leases and credit, against the same files over plain TCP.

Both ends of plain TCP are as few lines of Python as it takes: the client sends numbers, the server reads each file and
sends its length and its bytes. Of both servers the processor time is read from /proc.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

from benchmarks.figures import Reading
from benchmarks.spent import spending
from processes.raw_worker import RawWorker
from processes.support import Command, Nursery, Terminals, free_port, kill

from cfbus.bus import keys
from cfbus.bus import messages as m

SIZE = 100_000
"""Bytes of a file."""


def serve(folder: Path) -> None:
    """Files over plain TCP, to one client."""
    files = sorted(folder.iterdir())
    with socket.create_server(("127.0.0.1", 0)) as door:
        print(door.getsockname()[1], flush=True)
        link, _ = door.accept()
        with link, link.makefile("rb") as asked:
            while number := asked.read(4):
                data = files[struct.unpack("<I", number)[0]].read_bytes()
                link.sendall(struct.pack("<I", len(data)) + data)


def over_tcp(port: int, count: int) -> int:
    """All files; how many bytes."""
    total = 0
    with socket.create_connection(("127.0.0.1", port)) as link, link.makefile("rb", 1 << 20) as got:
        link.sendall(b"".join(struct.pack("<I", number) for number in range(count)))
        for _ in range(count):
            total += len(got.read(struct.unpack("<I", got.read(4))[0]))
    return total


def reading(folder: Path, count: int) -> Reading:
    """Half of ``count`` files, which is what one lease may have."""
    pictures = folder / "pictures"
    pictures.mkdir()
    first = pictures / f"{0:06d}.jpg"
    first.write_bytes(os.urandom(SIZE))
    for number in range(1, count):
        (pictures / f"{number:06d}.jpg").hardlink_to(first)
    nursery = Nursery(folder)
    daemons: list[Command] = []
    try:
        return _measured(nursery, daemons, folder, pictures)
    finally:
        for daemon in daemons:  # nothing is to be kept
            kill(daemon.pid)
        nursery.close()


def _measured(nursery: Nursery, daemons: list[Command], folder: Path, pictures: Path) -> Reading:
    settings = ("captions.engine=scripted", f"broker.chunk_size={m.MAX_CHUNK_ITEMS}", "broker.lease_seconds=600")
    bus = Terminals(nursery, folder / "bus", *settings, images=pictures)
    feeder = bus.start("feeder", "--host", "127.0.0.1", "--port", str(free_port()))
    daemons += [feeder, bus.start("writer"), bus.start("broker")]
    feeder.says("bus.welcomed")
    worker = RawWorker(keys.load(bus.folder / "keys" / "gpu-0.key_secret"), bus.server, bus.endpoint)
    grant, names = worker.lease(m.MAX_CHUNK_ITEMS, rate=1000.0)
    assert grant.feeder is not None
    link = worker.dial(grant.feeder)
    link.read(grant.lease, grant.start)
    used = _cpu(feeder)
    with spending() as spent:
        total = sum(len(got.image) for got in link.read(grant.lease, *range(grant.start, grant.end)))
    used = _cpu(feeder) - used
    worker.close()
    assert total == len(names) * SIZE
    server = nursery.start("benchmarks.reading_feeder", pictures)
    server.says("\n")
    bare_used = _cpu(server)
    with spending() as bare:
        assert over_tcp(int(server.said), len(names)) == total
        bare_used = _cpu(server) - bare_used
    return Reading(
        what=f"a feeder, images of {SIZE // 1000} kB", items=len(names), bytes=total, seconds=spent.wall,
        cpu_seconds=used, plainly="plain TCP, a server of ten lines", plain_seconds=bare.wall,
        plain_cpu_seconds=bare_used,
    )  # fmt: skip


def _cpu(command: Command) -> float:
    words = Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
