"""What each stage of the pipeline does at the least, by itself: the bus, the commits, the packing, the decoding.

Each in as few lines as it takes, and each in a process of its own: ``python -m benchmarks.stages NAME ITEMS FOLDER``
prints one as JSON.
"""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import zmq
from benchmarks.figures import Stage
from benchmarks.limit import SYNC_BYTES, frames
from PIL import Image

CHUNK_BYTES, CHUNKS = 64 << 10, 4000
RECEIVE_SECONDS = 60_000
PICTURES = 200
PICTURE_SIZE = (1024, 768)


def bus(items: int, folder: Path) -> Stage:
    """CURVE from a DEALER in another process to a ROUTER here, in frames of 64 KiB; both processes' time counts.

    As captions: so many as these bytes hold when workers pack them.
    """
    public, secret = zmq.curve_keypair()
    context = zmq.Context[zmq.Socket[bytes]]()
    router = context.socket(zmq.ROUTER)
    router.curve_server, router.curve_secretkey, router.rcvtimeo = True, secret, RECEIVE_SECONDS
    port = router.bind_to_random_port("tcp://127.0.0.1")
    sender = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stages", "send", f"tcp://127.0.0.1:{port}", public.decode()],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    router.recv_multipart()
    began, used = time.perf_counter(), time.process_time()
    for _ in range(CHUNKS):
        router.recv_multipart(copy=False)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    said, _ = sender.communicate(timeout=60)
    router.close(0)
    context.term()
    made = frames(items)
    per_caption = sum(map(len, made)) / items
    captions = CHUNKS * CHUNK_BYTES / per_caption
    return Stage(name="bus", unit="captions", rate=captions / seconds, cpu_us=(used + float(said)) * 1e6 / captions,
                 mib_per_second=CHUNKS * CHUNK_BYTES / seconds / (1 << 20))  # fmt: skip


def send(endpoint: str, server: str) -> None:
    """The other end; says what it took of the processor."""
    context = zmq.Context[zmq.Socket[bytes]]()
    dealer = context.socket(zmq.DEALER)
    dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
    dealer.curve_serverkey = server.encode()
    dealer.connect(endpoint)
    data = os.urandom(CHUNK_BYTES)
    dealer.send(b"begin")
    used = time.process_time()
    for _ in range(CHUNKS):
        dealer.send(data, copy=False)
    dealer.close()
    context.term()
    sys.stdout.write(f"{time.process_time() - used}\n")


def commits(items: int, folder: Path) -> Stage:
    """The workers' frames as rows of SQLite, with a durable commit for every 4 MiB, as the limit flushes."""
    made = frames(items)
    database = sqlite3.connect(folder / "frames.sqlite", isolation_level=None)
    for line in ("page_size = 16384", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0"):
        database.execute(f"PRAGMA {line}")
    database.execute("CREATE TABLE frames (position INTEGER PRIMARY KEY, frame BLOB NOT NULL)")
    each = max(1, SYNC_BYTES * len(made) // sum(map(len, made)))

    def act() -> None:
        for start in range(0, len(made), each):
            database.execute("BEGIN")
            rows = enumerate(made[start : start + each], start)
            database.executemany("INSERT INTO frames VALUES (?, ?)", rows)
            database.execute("COMMIT")

    return _timed("commits", "captions", items, sum(map(len, made)), act)


def packing(items: int, folder: Path) -> Stage:
    """What workers do to make these frames of made-up captions, without a lease or a bus."""
    size = 0

    def act() -> None:
        nonlocal size
        size = sum(map(len, frames(items)))

    stage = _timed("packing", "captions", items, 0, act)
    return stage.model_copy(update={"mib_per_second": size / (1 << 20) / (items / stage.rate)})


def decoding(items: int, folder: Path) -> Stage:
    """JPEGs of 1024 x 768 as pixels, on one core."""
    saved = io.BytesIO()
    Image.effect_noise(PICTURE_SIZE, 60).convert("RGB").save(saved, "JPEG", quality=85)

    def act() -> None:
        for _ in range(PICTURES):
            Image.open(io.BytesIO(saved.getvalue())).convert("RGB").tobytes()

    return _timed("decoding", "pictures", PICTURES, PICTURES * len(saved.getvalue()), act)


def _timed(name: str, unit: str, count: int, size: int, act: Callable[[], None]) -> Stage:
    began, used = time.perf_counter(), time.process_time()
    act()
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return Stage(name=name, unit=unit, rate=count / seconds, cpu_us=used * 1e6 / count,
                 mib_per_second=size / seconds / (1 << 20))  # fmt: skip


STAGES: dict[str, Callable[[int, Path], Stage]] = {
    "bus": bus, "commits": commits, "packing": packing, "decoding": decoding,
}  # fmt: skip


def main() -> None:
    """One of them."""
    name, first, second = sys.argv[1:]
    if name == "send":
        send(first, second)
    else:
        sys.stdout.write(STAGES[name](int(first), Path(second)).model_dump_json())


if __name__ == "__main__":
    main()
