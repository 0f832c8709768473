"""Beginning, pausing, idling and ending, in order and in a hurry."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from processes.support import Command, Nursery, Run, Terminals, until
from processes.tables import durable, exact_scripted, journal_bytes, make_pictures, spooled, untouched

ITEMS = 2000
IDLE_SECONDS = 3.0
IDLE_SHARE = 0.02


def scripted(nursery: Nursery, out: Path, rate: int = 150) -> Run:
    """A run that takes a quarter of a minute."""
    settings = ("dataset.source=scripted", f"dataset.items={ITEMS}", f"captions.scripted.rate={rate}")
    flags = [word for setting in settings for word in ("--set", setting)]
    return Run(nursery, out, "--engine", "scripted", "--workers", "1", *flags)


def test_ctrl_c_drains_and_twice_is_quick_and_the_same_command_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    run = scripted(nursery, tmp_path / "out")
    until("some of it is durable", lambda: journal_bytes(run.out) > 60_000)
    run.command.signal(signal.SIGINT)
    said = run.command.ends(130)
    assert "Draining" in said
    assert "the same command goes on from here" in said
    assert not list((run.out / "journal").glob("*.sqlite*")), "not all is sealed"
    assert not list((run.out / "run" / "spool").rglob("*.result")), "not all was delivered"
    nursery.await_none()
    before = durable(run.out)
    assert 0 < len(before) < ITEMS

    run = scripted(nursery, run.out)
    until("more of it is durable", lambda: journal_bytes(run.out) > 60_000)
    run.command.signal(signal.SIGTERM)  # as good as Ctrl-C
    run.command.says("Draining")
    run.command.signal(signal.SIGINT)
    run.command.ends(130, 30.0)
    nursery.await_none()
    now = durable(run.out)
    assert before.items() < now.items()
    assert len(now) < ITEMS
    scripted(nursery, run.out, 5000).command.ends(0)
    untouched(now, exact_scripted(run.out, ITEMS, ["caption"]))


def test_an_idle_worker_gets_released_work_at_once(nursery: Nursery, tmp_path: Path) -> None:
    items = 400
    bus = scripted_bus(nursery, tmp_path, items, rate=10, concurrency=100)
    broker, writer, first = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    with bus.watch() as watch:
        watch.until("one worker has all of it", lambda s: s.done < s.done + s.leased == s.items > 0)
        second = bus.start("gpu-1")
        watch.until("the other is there", lambda s: s.workers == 2)
        first.signal(signal.SIGTERM)
        first.ends(0)
        assert watch.fresh().done < items, "the first did all of it"
        # No lease ends by itself here: what the first has not begun was handed over.
        status = watch.until("all is done", lambda s: s.done == items)
        assert status.captions == items
    end([second, writer, broker])


def test_what_two_workers_deliver_is_stored_once(nursery: Nursery, tmp_path: Path) -> None:
    """One has all of it, the other helps; and while the writer stands still neither hears of the other."""
    items = 300
    bus = scripted_bus(nursery, tmp_path, items, rate=10, concurrency=100)
    broker, writer, first = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    with bus.watch() as watch:
        watch.until("one worker has all of it", lambda s: s.done < s.done + s.leased == s.items > 0)
        second = bus.start("gpu-1")
        watch.until("the other helps", lambda s: s.backups_granted > 0)
        writer.signal(signal.SIGSTOP)
        spools = [bus.folder / "spool" / name for name in ("gpu-0", "gpu-1")]
        until("both have captioned the same", lambda: spooled(spools[0]) & spooled(spools[1]))
        writer.signal(signal.SIGCONT)
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
        assert status.captions == status.done == items
    exact_scripted(bus.store, items, ["caption"])
    end([first, second, writer, broker])


def scripted_bus(nursery: Nursery, folder: Path, items: int, rate: int, concurrency: int = 64) -> Terminals:
    """A bus for made-up items, with leases that never end by themselves."""
    return Terminals(
        nursery,
        folder / "bus",
        "dataset.source=scripted",
        f"dataset.items={items}",
        "captions.engine=scripted",
        f"captions.scripted.rate={rate}",
        f"worker.concurrency={concurrency}",
        "broker.lease_seconds=86400",
        "broker.chunk_size=100",
    )


def end(daemons: Sequence[Command]) -> None:
    """SIGTERM to one after the other."""
    for daemon in daemons:
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_pause_stops_new_leases_and_resume_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    items = 2000
    bus = scripted_bus(nursery, tmp_path, items, rate=100, concurrency=20)
    daemons = [bus.start(role) for role in ("broker", "writer", "gpu-0")]
    with bus.watch() as watch:
        watch.until("some of it is done", lambda s: s.done > 100)
        assert bus.admin("pause") == {"paused": True}
        paused = watch.until("it is paused and what was leased is done", lambda s: s.paused and not s.leased)
        assert paused.why == "paused"
        assert 100 < paused.done < items
        assert not paused.finished
        facts = bus.admin("status")
        assert facts["done"] == paused.done
        assert facts["leases_granted"] == paused.leases_granted
        assert facts["captions"] == paused.captions == paused.done
        assert (facts["paused"], facts["leased"], facts["workers"]) == (True, 0, 1)
        settles(nursery, "paused")
        assert watch.fresh().leases_granted == paused.leases_granted
        assert bus.admin("resume") == {"paused": False}
        watch.until("leases are granted", lambda s: not s.paused and s.leases_granted > paused.leases_granted)
        done = watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
        assert done.done == done.items == done.captions == items
        assert done.leases_ended == done.leases_granted > paused.leases_granted
        assert (done.leased, done.dead_letters, done.to_try_again, done.results_refused) == (0, 0, 0, 0)
    exact_scripted(bus.store, items, ["caption"])
    end(daemons[::-1])


def test_daemons_that_have_nothing_to_do_use_no_cpu(nursery: Nursery, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    make_pictures(pictures, 0, 3)
    bus = Terminals(nursery, tmp_path / "bus", images=pictures)
    writer, gpu = bus.start("writer"), bus.start("gpu-0")
    for daemon in (writer, gpu):
        daemon.says("bus.retrying")
    settles(nursery, "looking for the broker")
    broker = bus.start("broker")
    with bus.watch() as watch:
        watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
        settles(nursery, "finished, and watched")
    broker.signal(signal.SIGTERM)
    broker.ends(0)
    for daemon in (writer, gpu):
        daemon.says("bus.disconnected")
    settles(nursery, "the broker is gone")
    end([writer, gpu])


def settles(nursery: Nursery, when: str) -> None:
    """Await a few seconds in which no process uses more than a small share of a core: once what began is over, and
    while the machine does not slow them down. Who never sleeps never gets there."""
    shares: list[float] = []

    def idle() -> bool:
        before = {seen: seen.cpu_seconds() for seen in nursery.alive()}
        time.sleep(IDLE_SECONDS)
        alive = set(nursery.alive()) & set(
            before
        )  # a child that ended meanwhile, as one that seals, counts for nothing
        assert len(alive) >= 2
        shares.append(max(seen.cpu_seconds() - before[seen] for seen in alive) / IDLE_SECONDS)
        return shares[-1] < IDLE_SHARE

    until(lambda: f"{when}: none uses more than {IDLE_SHARE:.0%} of a core: {shares}", idle, 60.0)
