"""What a worker does when everything is captioned."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from processes.support import Nursery, Terminals, until
from processes.tables import exact_scripted

SCRIPTED = ("dataset.source=scripted", "dataset.items=200", "captions.engine=scripted")


@pytest.mark.parametrize("then", ["exit", "run"])
def test_a_worker_ends_or_hands_over_when_all_is_captioned(nursery: Nursery, tmp_path: Path, then: str) -> None:
    there = tmp_path / "there"
    wish = "exit" if then == "exit" else f"run:touch '{there}'"
    bus = Terminals(nursery, tmp_path / "bus", *SCRIPTED, f"worker.when_finished={wish}")
    broker, writer = bus.start("broker"), bus.start("writer")
    gpu = bus.start("gpu-0")
    gpu.ends(0)
    assert there.exists() == (then == "run")
    with bus.watch() as watch:
        watch.until("all is done and sealed", lambda status: status.finished and status.sealed)
    until("the broker knows", lambda: bus.admin("status")["workers"] == 0)
    exact_scripted(bus.store, 200, ["caption"])
    for daemon in (writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_a_program_that_is_not_there_is_said_before_anything_is_captioned(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SCRIPTED, "worker.when_finished=run:no-such-program --now")
    assert "there is no program no-such-program" in bus.start("gpu-0").ends(2)
