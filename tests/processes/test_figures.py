"""What a worker says of itself reaches those who watch."""

from __future__ import annotations

import signal
from pathlib import Path

from processes.support import Nursery, Terminals

from cfbus.core.snapshot import WorkerView

ENDLESS = ("dataset.source=scripted", "dataset.items=100000", "captions.engine=scripted", "captions.scripted.rate=50")


def test_a_worker_with_leases_tells_its_figures(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *ENDLESS)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))

    def is_busy(view: WorkerView) -> bool:
        if view.load is None or view.engine is None or view.load.state not in ("busy", "saturated"):
            return False
        at_work = (view.engine.running, view.engine.level) == (1, 1) and view.engine.waiting > 10
        # What has only begun is slower, and so is what stood still for a moment.
        return bool(view.leases) and at_work and view.load.images_per_second > 10

    view = bus.worker("it has enough to do", is_busy)
    assert view.engine is not None
    assert (view.engine.kv_usage, view.engine.tokens_per_second, view.host) == (None, None, None)
    for daemon in (gpu, writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)
