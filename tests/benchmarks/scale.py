"""Large datasets: how soon a broker grants a lease when the store is full of holes, and what a billion items take.

The first with real processes on a store that was made up. The second with the cores alone and a made-up listing; run as
``python -m benchmarks.scale PART SHARD_ITEMS [ITEMS]`` it prints one case, which needs a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np
from benchmarks.figures import Billion, CatchUp
from benchmarks.processes import usage

from cfbus.bus import messages as m
from cfbus.core.broker import Broker
from cfbus.core.catchup import CatchUp as CoreCatchUp
from cfbus.core.effects import Peer
from cfbus.core.state import Remembered, Rules, WriterState
from cfbus.core.telling import done_pages, pass_pages, shard_pages
from cfbus.core.writer import Writer, WriterRules
from cfbus.sources.base import NothingKnown
from cfbus.sources.scripted import ScriptedSource
from cfbus.store.folder import Store
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import SegmentRow, ShardRow

RANGES = 1_000_000
SHARD_ITEMS = 4096
ITEMS = 10**9
CASES = tuple((part, items) for part in ("broker", "writer") for items in (10_000, SHARD_ITEMS))
GIVE_UP_SECONDS = 300.0
_AT = r"^(\S+)Z \w+ +\w+ {}\b"


# ---------------------------------------------------------------------- a store full of holes


def make_store(path: Path, ranges: int) -> int:
    """Every other item is done, so that there are so many ranges; returns how many items there are."""
    per_shard = SHARD_ITEMS // 2
    count = -(-ranges // per_shard)
    items = count * SHARD_ITEMS
    store = Store.open(path, "scripted", create=True)
    manifest = Manifest.open(store)
    source = ScriptedSource(items, SHARD_ITEMS)
    for number, shard in enumerate(source.shards(NothingKnown())):
        digest = write_listing(store, number, shard.keys, shard.locators)
        manifest.add_shards([ShardRow(number, shard.name, len(shard.keys), digest)])
    manifest.add_pass(["caption"])
    starts = np.arange(0, 2 * ranges, 2)
    done = np.stack(
        [np.ones_like(starts), starts // SHARD_ITEMS, starts % SHARD_ITEMS, starts % SHARD_ITEMS + 1], axis=1
    )
    segment = store.table_path("captions", 1)
    segment.write_bytes(b"nobody reads this")
    size, name = segment.stat().st_size, str(segment.relative_to(store.root))
    manifest.add_segment(SegmentRow(1, ranges, (name,), ranges, 0, size, 0, {"c": ranges}), done)
    manifest.close()
    store.close()
    return items


def measure_catch_up(folder: Path, ranges: int = RANGES) -> CatchUp:
    """Start all of them at once and read their logs."""
    items = make_store(folder / "captions", ranges)
    settings = [
        "dataset.source=scripted",
        f"dataset.items={items}",
        "captions.engine=scripted",
        "captions.scripted.rate=10",
    ]
    ports = ["broker.port=29710", "broker.stats_port=29711"]
    servers = [f"{who}.server=tcp://127.0.0.1:29710" for who in ("writer", "worker", "admin")]
    flags = [word for setting in (*settings, *ports, *servers) for word in ("--set", setting)]
    subprocess.run(
        [sys.executable, "-m", "cfbus.tools.main", "init", str(folder), *flags], check=True, stdout=subprocess.DEVNULL
    )
    began = time.time()
    logs = {name: folder / f"{name}.log" for name in ("broker", "writer", "gpu")}
    daemons = []
    for name, log in logs.items():
        with log.open("wb") as said:
            command = [sys.executable, "-m", f"cfbus.daemons.{name}", "--config", str(folder / "cfbus.yaml")]
            daemons.append(subprocess.Popen(command, stdout=said, stderr=said))
    try:
        leased = _when(logs["broker"], r"lease\.granted")
        joined, caught_up = (_when(logs["broker"], event) for event in (r"writer\.joined", r"writer\.caught-up"))
        used = {name: usage(daemon.pid) for name, daemon in zip(logs, daemons, strict=True)}
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
    return CatchUp(
        ranges=ranges, items=items, open_seconds=joined - began, catch_up_seconds=caught_up - joined,
        first_lease_seconds=leased - began,
        cpu_seconds={name: sum(each.cpu.values()) for name, each in used.items()},
        peak_mib={name: max(each.peak.values()) / (1 << 20) for name, each in used.items()},
    )  # fmt: skip


def _when(log: Path, event: str) -> float:
    """When it was first logged."""
    pattern = re.compile(_AT.format(event), re.MULTILINE)
    until = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < until:
        found = pattern.search(log.read_text(errors="replace"))
        if found:
            return datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
        time.sleep(0.02)
    raise TimeoutError(f"no {event} in {log}")


# ---------------------------------------------------------------------- a billion items


def measure_billion(part: str, shard_items: int, items: int = ITEMS) -> Billion:
    """What a core grows by: for the listing, and when all of it is done; and how long it takes to be told all that."""
    measure = _broker if part == "broker" else _writer
    shards = -(-items // shard_items)
    began = time.process_time()
    listed, done = measure(shards, shard_items)
    return Billion(
        part=part, shard_items=shard_items, shards=shards, listed_mib=listed, done_mib=done,
        seconds=time.process_time() - began,
    )  # fmt: skip


def _broker(shards: int, length: int) -> tuple[float, float]:
    slot = m.Slot(name="caption", prompt="Describe this image.", prompt_id="bench")
    spec = m.Spec(hash="0" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=(slot,))
    core = Broker(Rules(dataset="bench", spec=spec, instance="f" * 16), lambda: "0" * 16, Remembered(), 0.0)
    writer = WriterState(Peer("w", "k", "c", m.Role.WRITER).connection, "a" * 16, 0, 0.0)
    before = _memory()
    told: CoreCatchUp = core.catchup
    for first in range(0, shards, 10_000):
        names = [_name(number) for number in range(first, min(first + 10_000, shards))]
        passes = pass_pages(first, [m.PassFacts(number=1, slots=("caption",))])
        for page in [*passes, *shard_pages(0, names, [length] * len(names))]:
            told.state(writer, page.message(0).model_copy(update={"first": first + page.first}), page.payload, 0.0)
    listed = _memory()
    rows = ((1, shard, 0, length) for shard in range(shards))
    while some := list(islice(rows, 10_000)):
        for page in done_pages(some):
            told.state(writer, page.message(0), page.payload, 0.0)
    assert core.done_items == core.shards.items == shards * length
    return (listed - before) / (1 << 20), (_memory() - before) / (1 << 20)


def _writer(shards: int, length: int) -> tuple[float, float]:
    core = Writer(WriterRules("a" * 16, "bench", "f" * 16, "writer"), 0, 0.0)
    core.inventory.know_pass(m.PassFacts(number=1, slots=("caption",)))
    before = _memory()
    for number in range(shards):
        core.inventory.know_shard(_name(number), length)
    listed = _memory()
    for number in range(shards):
        core.inventory.know_done((1, number), [(0, length)])
    return (listed - before) / (1 << 20), (_memory() - before) / (1 << 20)


def _name(number: int) -> str:
    return f"images-{number:05d}"


def _memory() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(arguments: Sequence[str]) -> None:
    """One case."""
    part, *numbers = arguments
    sys.stdout.write(measure_billion(part, *map(int, numbers)).model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1:])
