"""One `cfbus run` with the scripted engine at full speed, watched from outside: through /proc, the broker's log, an
ADMIN question and the statistics. Nothing of the product is changed or imported into its processes for this.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zmq
from benchmarks.figures import Run
from benchmarks.processes import Usage, machine_busy, usage

from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.wire import decode, encode
from cfbus.core.snapshot import Status
from cfbus.runtime import new_id
from cfbus.tools.following import Follower

ROOT = Path(__file__).resolve().parents[2]
CAPTION_CHARS = 300
CONCURRENCY = 512
SEAL_MIB = 64
"""A quarter of the default, so that a run of ten seconds seals while it captions, as a long one does."""
ASK_SECONDS = 0.02
LOOK_SECONDS = 0.25
GIVE_UP_SECONDS = 600.0
_SERVES = re.compile(r'broker\.serves endpoint=(\S+) stats_port=(\d+) server_key="([^"]+)"')
_GRANTED = re.compile(r"^(\S+)Z info +broker lease\.granted ", re.MULTILINE)


class BenchError(Exception):
    """The product did not do what is measured here, so there is nothing to report."""


@dataclass
class _Watch:
    """A run's process, and what it and its children were last seen to use."""

    process: subprocess.Popen[bytes]
    out: Path
    seen: Usage = field(default_factory=Usage)

    def look(self) -> Usage:
        self.seen = self.seen.later(usage(self.process.pid))
        return self.seen

    def log(self) -> str:
        path = self.out / "run" / "logs" / "broker.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def patience(self) -> Iterator[None]:
        """Steps until the run has ended or takes too long, which is an error."""
        until = time.monotonic() + GIVE_UP_SECONDS
        while self.process.poll() is None and time.monotonic() < until:
            yield
        raise BenchError(f"cfbus run ended or hung before its time (exit code {self.process.poll()}); see {self.out}")


def run(items: int, workers: int, out: Path, *, chars: int = CAPTION_CHARS, slots: Sequence[str] = ("caption",)) -> Run:
    """Caption ``items`` made-up items into the new folder ``out``: in each slot ``chars`` characters.

    Rates and processor times are by item.
    """
    named = [word for slot in slots for word in ("--slot", f"{slot}=Describe this image.")]
    command = [
        sys.executable, "-m", "cfbus.tools.main", "run", "--out", str(out), "--engine", "scripted",
        "--workers", str(workers), "--set", "dataset.source=scripted", "--set", f"dataset.items={items}",
        "--set", f"captions.scripted.length={chars}", "--set", f"worker.concurrency={CONCURRENCY}",
        "--set", f"storage.seal_mib={SEAL_MIB}", *named,
    ]  # fmt: skip
    began = time.time()
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environ)
    watch = _Watch(process, out)
    try:
        figures = _follow(watch, items, workers, len(slots), began)
        if process.wait(GIVE_UP_SECONDS) != 0:
            raise BenchError(f"cfbus run ended with exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()
    _check_undisturbed(out)
    check(out, items, chars, slots)
    return figures


def _follow(watch: _Watch, items: int, workers: int, slots: int, began: float) -> Run:
    endpoint, stats, line = _broker(watch)
    first_captions = _first_caption(watch, endpoint, line)
    first_at, first, busy = time.time(), watch.look(), machine_busy()
    follower = Follower(watch.out / "keys" / "admin.key_secret", line, stats)
    try:
        durable_at = _until(watch, follower, "finished")
        busy = machine_busy() - busy
        mine = sum(watch.look().cpu.values()) - sum(first.cpu.values())
        sealed_at = _until(watch, follower, "sealed")
        last = watch.look()
    finally:
        follower.close()
    leased_at = _first_lease(watch)
    return Run(
        workers=workers,
        durable=items / (durable_at - leased_at),
        sealed=items / (sealed_at - leased_at),
        first_lease_seconds=leased_at - began,
        first_caption_seconds=first_at - began,
        cpu_us=_each(last.cpu, first.cpu, 1e6 / max(1, items - first_captions // slots)),
        peak_mib=_worst(last.peak),
        parquet_bytes=sum(path.stat().st_size for path in (watch.out / "captions").glob("*.parquet")),
        cores_of_others=max(busy - mine, 0.0) / (durable_at - first_at),
    )


def _broker(watch: _Watch) -> tuple[str, str, str]:
    for _ in watch.patience():
        serves = _SERVES.search(watch.log())
        if serves:
            endpoint, port, line = serves.groups()
            return endpoint, f"{endpoint.rpartition(':')[0]}:{port}", line
        time.sleep(ASK_SECONDS)
    raise AssertionError


def _first_caption(watch: _Watch, endpoint: str, line: str) -> int:
    """Wait until a caption is durable; how many are when that is seen."""
    with _asking(watch.out / "keys" / "admin.key_secret", line, endpoint) as socket:
        for _ in watch.patience():
            captions = _durable_captions(socket)
            if captions:
                return captions
            time.sleep(ASK_SECONDS)
    raise AssertionError


def _durable_captions(socket: sockets.Socket) -> int:
    sockets.send(socket, None, encode(m.Admin(request=new_id(), verb="status")))
    socket.poll(int(LOOK_SECONDS * 1000))
    replies = [decode(frames)[0] for frames in sockets.drain_client(socket, 100)]
    return max((int(dict(reply.facts)["captions"]) for reply in replies if isinstance(reply, m.Reply)), default=0)


@contextmanager
def _asking(key_file: Path, line: str, endpoint: str) -> Iterator[sockets.Socket]:
    context: sockets.Context = zmq.Context()
    public, _ = keys.parse_public_line(line)
    socket, watch = sockets.connect_bus(context, keys.load(key_file), public, endpoint)
    hello = m.Hello(role=m.Role.ADMIN, instance=new_id(), software="cfbus", name="bench")
    try:
        while not sockets.send(socket, None, encode(hello)):
            time.sleep(ASK_SECONDS)
        yield socket
    finally:
        watch.close()
        socket.close()
        context.term()


def _until(watch: _Watch, follower: Follower, what: str) -> float:
    """When the broker said that all is ``finished`` (durable) or ``sealed``, which it does at once."""
    for _ in watch.patience():
        status: Status | None = follower.next(LOOK_SECONDS)
        if status is not None and status.finished and getattr(status, what):
            return time.time()
        watch.look()
    raise AssertionError


def _first_lease(watch: _Watch) -> float:
    granted = _GRANTED.search(watch.log())
    if granted is None:
        raise BenchError(f"the broker's log tells of no lease; see {watch.out}")
    return datetime.fromisoformat(f"{granted[1]}+00:00").timestamp()


def _each(last: dict[str, float], first: dict[str, float], factor: float) -> dict[str, float]:
    """Per caption; the workers' is what one of them used for each caption of its own, so their sum over all."""
    used: dict[str, float] = {}
    for part, seconds in last.items():
        name = part.partition(" ")[0]
        used[name] = used.get(name, 0.0) + (seconds - first.get(part, 0.0)) * factor
    return used


def _worst(peaks: dict[str, int]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for part, size in peaks.items():
        name = part.partition(" ")[0]
        worst[name] = max(worst.get(name, 0.0), size / (1 << 20))
    return worst


def _check_undisturbed(out: Path) -> None:
    for path in (out / "run" / "logs").iterdir():
        if path.read_text(errors="replace").count(" config.loaded ") != 1:
            raise BenchError(f"{path.stem} had to be started again; see {path}")


def check(folder: Path, items: int, chars: int = CAPTION_CHARS, slots: Sequence[str] = ("caption",)) -> None:
    """Every item once in each slot, with its own caption of this length; otherwise the figures mean nothing."""
    table = pq.read_table(folder / "captions", columns=["item_key", "slot", "caption"])
    named = pc.binary_join_element_wise(table["slot"].cast(pa.string()), table["item_key"], " of ")
    expected = pc.binary_join_element_wise(named, "", ": ")
    if (
        table.num_rows != items * len(slots)
        or pc.count_distinct(table["item_key"]).as_py() != items
        or pc.count_distinct(named).as_py() != items * len(slots)
        or not pc.all(pc.equal(expected, _begins(table["caption"], expected))).as_py()
        or pc.min_max(pc.utf8_length(table["caption"])).as_py() != {"min": chars, "max": chars}
    ):
        raise BenchError(f"the captions in {folder} are not those of {items:,} items, each once in each slot")


def _begins(captions: pa.ChunkedArray, expected: pa.ChunkedArray) -> pa.ChunkedArray:
    """So much of each caption as what is expected is long, which is the same for all of a slot."""
    lengths = pc.unique(pc.utf8_length(expected)).to_pylist()
    begins = [pc.utf8_slice_codeunits(captions, 0, length) for length in lengths]
    choice = pc.index_in(pc.utf8_length(expected), value_set=pa.array(lengths))
    return pc.choose(choice, *begins)


def difference(ours: Path, other: Path) -> str:
    """Which columns, of those that do not say by which way a row came, differ between two tables; empty if none."""
    by_way = {"job_id", "dataset", "contributor_id", "timestamp", "commit_seq", "key", "lease", "worker", "spec"}
    by_way |= {"model", "model_revision", "engine", "slot", "stage", "prompt_id", "finish_reason", "image_format"}
    first, second = (pq.read_table(path).sort_by("item_key") for path in (ours, other))
    if first.schema != second.schema:
        return "schema"
    same = {name: first[name].combine_chunks().equals(second[name].combine_chunks()) for name in first.schema.names}
    return ", ".join(name for name, equal in same.items() if not equal and name not in by_way)
