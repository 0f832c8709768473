"""The broker goes away and comes back: workers finish what they hold, keep it, wait at no cost, and deliver it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.dataset as ds
from chaos.bus import Bus
from chaos.forking import COUNT
from chaos.nest import Daemon, Nest
from processes.support import until

from cfbus.bus.messages import Result
from cfbus.bus.wire import unpack_small
from cfbus.store.spool import Spool

IDLE_SECONDS, IDLE_SHARE = 3.0, 0.02
CHUNK = 100


def captioned(daemon: Daemon) -> int:
    """What this process has captioned so far."""
    file = daemon.log.with_suffix(".captioned")
    data = file.read_bytes() if file.exists() else b""
    return int(COUNT.unpack(data)[0]) if data else 0  # without an engine there is no count yet


def settled(bus: Bus, *workers: str) -> Mapping[str, int]:
    """How much each has captioned, once nobody captions any more and all of it lies in the spools."""
    seen: list[dict[str, int]] = []

    def quiet() -> bool:
        seen.append({worker: captioned(bus.running[worker]) for worker in workers})
        # Longer than it takes for a result to be made and spooled.
        return len(seen) > 15 and all(each == seen[-1] for each in seen[-15:])

    def looked() -> bool:
        time.sleep(0.5)
        return quiet()

    until("they have nothing to do any more", looked)
    return seen[-1]


def waits_at_no_cost(daemon: Daemon) -> None:
    """There are some seconds in which it uses hardly any of a core: not always, for the machine may be busy."""
    shares: list[float] = []

    def idle() -> bool:
        before = daemon.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        shares.append((daemon.cpu_seconds() - before) / IDLE_SECONDS)
        return shares[-1] < IDLE_SHARE

    until(lambda: f"{daemon.log} waits at no cost: {shares}", idle, 60.0)


def kept(bus: Bus) -> Iterator[Result]:
    """All results that lie in spools."""
    for path in bus.spools("*.result"):
        yield Result.model_validate(unpack_small(path.read_bytes())["result"])


def test_what_was_made_meanwhile_is_delivered_also_by_a_worker_that_died(nest: Nest, tmp_path: Path) -> None:
    items = 1500
    bus = Bus(
        nest,
        tmp_path / "bus",
        f"dataset.items={items}",
        "captions.scripted.rate=50",
        "worker.concurrency=16",
        f"broker.chunk_size={CHUNK}",
        "broker.lease_seconds=86400",
    )
    workers = ("gpu-0", "gpu-1")
    for role in ("broker", "writer", *workers):
        bus.start(role)
    with bus.watch() as watch:
        watch.until("some of it is done", lambda s: s.done > 150 and s.workers == 2)
        until("both are at work", lambda: all(captioned(bus.running[worker]) for worker in workers))
        before = {worker: captioned(bus.running[worker]) for worker in workers}
        bus.running["broker"].kill()
        after = settled(bus, *workers)
        # What a worker holds: the chunk that it is at, and those that it asked for in time.
        assert all(before[worker] < after[worker] <= before[worker] + 10 * CHUNK for worker in workers)
        for role in ("writer", *workers):
            waits_at_no_cost(bus.running[role])
        made = {(at, result.lease) for result in kept(bus) for a, b in result.ranges for at in range(a, b)}
        assert len(made) > CHUNK // 2
        bus.running["gpu-1"].kill()
        bus.start("gpu-1")
        bus.start("broker")
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed, 120.0)
    assert status.results_refused == 0
    bus.end()
    bus.exact(items)
    table = ds.dataset(bus.store / "captions", format="parquet").to_table(columns=["item_index", "lease"])
    stored = set(zip(table["item_index"].to_pylist(), table["lease"].to_pylist(), strict=True))
    assert made <= stored, "what lay in a spool was made again by another"


def test_a_worker_stops_before_its_spool_is_full(nest: Nest, tmp_path: Path) -> None:
    spool, items, length = 4 << 20, 1600, 20_000
    bus = Bus(
        nest,
        tmp_path / "bus",
        f"dataset.items={items}",
        "captions.scripted.rate=150",
        f"captions.scripted.length={length}",
        "worker.concurrency=32",
        f"worker.spool_mib={spool >> 20}",
        "broker.chunk_size=400",
        "broker.lease_seconds=86400",
    )
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    with bus.watch() as watch:
        watch.until("it is at work on more than the spool can hold", lambda s: s.done > 0 and s.leased > 270)
        broker.kill()
        settled(bus, "gpu-0")
        size = sum(path.stat().st_size for path in bus.spools("*.result"))
        assert spool // 2 < size <= spool
        assert "spool.full" not in gpu.said
        waits_at_no_cost(gpu)
        gpu.kill()
        left = bus.folder / "spool" / "gpu-0"
        before = Spool(left, spool)
        assert sum(len(payload) for _, payload in before.results()) > spool // 2
        before.close()
        bus.start("gpu-0")
        bus.start("broker")
        watch.until("all is done and sealed", lambda s: s.finished and s.sealed, 120.0)
    assert writer.code is None
    bus.end()
    bus.exact(items)
