"""A worker's file changes while it runs: what holds at once, what needs a new engine, and what changes nothing."""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest
from processes.support import Command, Nursery, Terminals, until
from processes.tables import exact_scripted, journal_bytes

ITEMS = 3000
SLOW = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "captions.engine=scripted",
    "captions.scripted.rate=20",
    "captions.scripted.speed=1",
    "worker.name=ann",
    "worker.concurrency=20",
)


def start(nursery: Nursery, folder: Path, *settings: str) -> tuple[Terminals, Command, Command, Command]:
    """A slow bus at work."""
    bus = Terminals(nursery, folder / "bus", *SLOW, *settings)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    gpu.says("spec.used")
    with bus.watch() as watch:
        watch.until("it is at work", lambda s: s.leased > 0)
    return bus, broker, writer, gpu


def change(bus: Terminals, gpu: Command, key: str, value: object, event: str) -> str:
    """Write one key of the file, send SIGHUP; returns the line of the log that says what became of it."""
    text = bus.config.read_text()
    changed, count = re.subn(rf"(?m)^( +){key}: .*$", rf"\g<1>{key}: {value}", text)
    assert count == 1, f"{key} stands {count} times in {text}"
    bus.config.write_text(changed)
    told = rf"(?m)^.* {re.escape(event)}\b.*\n"
    before = len(re.findall(told, gpu.said))
    gpu.signal(signal.SIGHUP)
    until(lambda: f"one more {event}: {gpu.said}", lambda: len(re.findall(told, gpu.said)) > before)
    return str(re.findall(told, gpu.said)[-1])


def end(*daemons: Command) -> None:
    for daemon in daemons:
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def in_flight_at_the_end(gpu: Command) -> int:
    """How many were in flight when it was asked to stop; at once, so that they are not awaited."""
    gpu.signal(signal.SIGTERM)
    gpu.says("worker.drains")
    gpu.signal(signal.SIGTERM)
    said = gpu.ends(0)
    return int(re.findall(r"worker\.drains .*in_flight=(\d+)", said)[0])


def test_what_is_live_holds_at_once(nursery: Nursery, tmp_path: Path) -> None:
    bus, broker, writer, gpu = start(nursery, tmp_path)
    said = change(bus, gpu, "concurrency", 35, "worker.reloaded")
    assert "live=" in said
    assert "worker.concurrency" in said
    with bus.watch() as watch:
        watch.until("more is leased than before", lambda s: s.leased >= 60)
    assert "worker.replaces_engine" not in gpu.said
    assert 30 <= in_flight_at_the_end(gpu) <= 35
    end(writer, broker)


def test_a_file_with_anything_wrong_changes_nothing_and_its_place_is_told(nursery: Nursery, tmp_path: Path) -> None:
    bus, broker, writer, gpu = start(nursery, tmp_path)
    good = bus.config.read_text()
    bus.config.write_text(good.replace("concurrency: 20", "concurrency: 3\n  concurency: 4"))
    gpu.signal(signal.SIGHUP)
    gpu.says("worker.not_reloaded")
    line = good[: good.index("concurrency: 20")].count("\n") + 2
    assert f"cfbus.yaml:{line}: " in gpu.said
    assert "did you mean" in gpu.said
    bus.config.write_text(good.replace("concurrency: 20", "concurrency: 3"))
    said = change(bus, gpu, "name", "bob", "worker.not_reloaded")
    assert "worker.name cannot change while the worker runs." in said
    assert "Restart the worker" in said
    bus.config.write_text(good)
    said = change(bus, gpu, "name", "ann", "worker.reloaded")
    assert "live=" not in said, "what was refused has left something behind"
    assert 15 <= in_flight_at_the_end(gpu) <= 20
    end(writer, broker)


def test_a_new_engine_comes_after_what_is_leased(nursery: Nursery, tmp_path: Path) -> None:
    """Twenty items a second would take minutes: that it ends says that the new engine is there."""
    bus, broker, writer, gpu = start(nursery, tmp_path)
    said = change(bus, gpu, "speed", 500, "worker.reloaded")
    assert "captions.scripted.speed" in said
    gpu.says("worker.engine_replaced")
    with bus.watch() as watch:
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
    assert status.captions == ITEMS
    assert status.dead_letters == 0
    end(gpu, writer, broker)
    exact_scripted(bus.store, ITEMS, ["caption"])
    assert gpu.said.index("worker.replaces_engine") < gpu.said.index("worker.engine_replaced")


def test_a_worker_that_cannot_do_what_the_broker_now_wants_waits_until_it_can(nursery: Nursery, tmp_path: Path) -> None:
    bus, broker, writer, gpu = start(nursery, tmp_path)
    end(broker)
    broker = bus.start("broker", "--set", "captions.engine=palette", "--set", "captions.scripted.speed=2")
    broker.ends(2)  # a key of another engine, typed: it is told
    broker = bus.start("broker", "--set", "captions.engine=palette")
    gpu.says("spec.refused")
    assert "The broker wants captions by 'palette'; this worker has 'scripted'." in gpu.said
    with bus.watch() as watch:
        watch.until("it has nothing", lambda s: s.workers == 1 and not s.leased)
        size = journal_bytes(bus.store)
        assert gpu.process.poll() is None
    end(broker)
    broker = bus.start("broker")
    until("the spec is used again", lambda: gpu.said.count(" spec.used ") == 2)
    until("it is at work again", lambda: journal_bytes(bus.store) > size)
    gpu.signal(signal.SIGTERM)
    gpu.signal(signal.SIGTERM)
    gpu.ends(0)
    end(writer, broker)


def test_a_limit_of_the_workers_own_is_told(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SLOW)
    broker, gpu = bus.start("broker", "--set", "captions.pixel_budget=4096"), bus.start("gpu-0")
    gpu.says("spec.own_limit key=captions.pixel_budget wanted=4096 own=1048576")
    assert "captions.max_pixels" not in gpu.said
    end(gpu, broker)


@pytest.mark.parametrize("closed", [True, False])
def test_a_closed_terminal_ends_a_worker_and_a_signal_does_not(nursery: Nursery, tmp_path: Path, closed: bool) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SLOW)
    broker, writer = bus.start("broker"), bus.start("writer")
    log = tmp_path / "log"
    child, terminal = pty.fork()
    if child == 0:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
        command = [sys.executable, "-m", "cfbus.daemons.gpu", "--config", str(bus.config)]
        os.execve(sys.executable, command, {**os.environ, "PROCESSES_TEST_MARK": nursery.mark})
    until("it is at work", lambda: log.exists() and "spec.used" in log.read_text())
    if closed:
        os.close(terminal)
        until("it drains", lambda: "worker.drains" in log.read_text())
    else:
        os.kill(child, signal.SIGHUP)
        until("it has read its file", lambda: "worker.reloaded" in log.read_text())
        assert "worker.drains" not in log.read_text()
        os.kill(child, signal.SIGTERM)
    until("it has ended", lambda: os.waitpid(child, os.WNOHANG)[0])
    if not closed:
        os.close(terminal)
    end(writer, broker)
