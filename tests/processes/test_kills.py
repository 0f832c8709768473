"""kill -9 of each process, and of all, in the middle of a run: nothing that was durable is lost or made twice."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from processes.support import Nursery, Run, kill, until
from processes.tables import durable, exact_scripted, journal_bytes, sealed_bytes, untouched

from cfbus.store.folder import Store

ITEMS = 6000
SLOTS = ("short", "long")
MIDDLE_BYTES = 600_000
"""An item is 600 characters: this is a sixth of all."""
SLOW, QUICK = 400, 5000
"""Items per second: it takes a quarter of a minute, so that we may stand still for some seconds in its middle; or one
second."""


def scripted(nursery: Nursery, out: Path, *settings: str, rate: int = QUICK, workers: int = 1) -> Run:
    """A run of ITEMS made-up items."""
    source = ("dataset.source=scripted", f"dataset.items={ITEMS}", f"captions.scripted.rate={rate}")
    flags = [word for setting in (*source, *settings) for word in ("--set", setting)]
    slots = [word for slot in SLOTS for word in ("--slot", f"{slot}=Say something {slot}.")]
    return Run(nursery, out, "--engine", "scripted", "--workers", str(workers), *slots, *flags)


def in_the_middle(run: Run) -> None:
    """Some of it is durable, and much of it is not."""
    until("some of it is durable", lambda: journal_bytes(run.out) > MIDDLE_BYTES)
    assert journal_bytes(run.out) < ITEMS * 600 * 2 // 3
    assert run.command.process.poll() is None


@pytest.mark.parametrize("role", ["writer", "gpu-0"])
def test_a_daemon_that_is_killed_is_started_again(role: str, nursery: Nursery, tmp_path: Path) -> None:
    run = scripted(nursery, tmp_path / "out", rate=SLOW // 2, workers=2)
    victim = run.daemon(role)
    in_the_middle(run)
    kill(victim.pid)
    said = run.command.ends(0)
    assert f"{role} was killed by signal 9; starting it again" in said
    assert said.count("starting it again") == 1
    exact_scripted(run.out, ITEMS, SLOTS)


def test_a_run_that_is_killed_leaves_nothing_behind_and_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    run = scripted(nursery, tmp_path / "out", rate=SLOW)
    in_the_middle(run)
    kill(run.command.pid)
    run.command.ends(-9)
    # The daemons notice by themselves; what they hold is sealed or spooled.
    nursery.await_none()
    before = durable(run.out)
    segments = sealed_bytes(run.out)
    assert 0 < len(before) < ITEMS
    assert segments
    # Again; and this time nobody waits for them, but the next run.
    run = scripted(nursery, run.out, rate=SLOW)
    in_the_middle(run)
    kill(run.command.pid)
    scripted(nursery, run.out).command.ends(0)
    untouched(before, exact_scripted(run.out, ITEMS, SLOTS))
    assert segments.items() <= sealed_bytes(run.out).items()


def test_after_all_is_killed_the_same_command_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    # Small segments, so that a seal or a listing may be under way too.
    run = scripted(nursery, tmp_path / "out", "storage.seal_mib=1", "storage.seal_seconds=1", rate=SLOW)
    until("some of it is durable", partial(has_durable, run.out, MIDDLE_BYTES // 2))
    while alive := nursery.alive():
        for seen in alive:
            kill(seen.pid)
        run.command.process.poll()
    before = durable(run.out)
    assert 0 < len(before) < ITEMS
    again = scripted(nursery, run.out)
    again.command.ends(0)
    untouched(before, exact_scripted(run.out, ITEMS, SLOTS))


def test_a_run_that_was_killed_while_it_made_the_manifest_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    """As SQLite leaves it when it is killed in its first transaction: with a journal to be rolled back."""
    out = tmp_path / "out"
    Store.open(out, "scripted", create=True).close()
    manifest = out / "manifest.sqlite"
    with closing(sqlite3.connect(manifest, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN")
        database.execute("CREATE TABLE filler (text)")
        database.execute("INSERT INTO filler VALUES (zeroblob(100000))")
        killed = {path: path.read_bytes() for path in out.glob("manifest*")}
    assert len(killed) == 2
    for path, data in killed.items():
        path.write_bytes(data)
    flags = ["--set", "dataset.source=scripted", "--set", "dataset.items=100"]
    Run(nursery, out, "--engine", "scripted", *flags).command.ends(0)
    exact_scripted(out, 100, ["caption"])


def test_a_storm(nursery: Nursery, tmp_path: Path) -> None:
    """Each daemon dies, and some die again."""
    run = scripted(nursery, tmp_path / "out", "storage.seal_mib=1", rate=SLOW // 2, workers=2)
    for step, role in enumerate(("broker", "gpu-1", "writer", "broker", "writer"), 1):
        until("more of it is durable", partial(has_durable, run.out, step * 300_000))
        kill(run.daemon(role).pid)
    assert run.command.ends(0).count("starting it again") == 5
    exact_scripted(run.out, ITEMS, SLOTS)


def has_durable(out: Path, least: int) -> bool:
    """So many bytes in journal and segments; these are packed, so it grows with what is durable, but not evenly."""
    return journal_bytes(out) + 20 * sum(len(data) for data in sealed_bytes(out).values()) > least


def test_the_ledger_is_disposable(nursery: Nursery, tmp_path: Path) -> None:
    run = scripted(nursery, tmp_path / "out", rate=SLOW)
    broker = run.daemon("broker")
    in_the_middle(run)
    # Who would start the next broker waits until the ledger is away.
    run.command.signal(signal.SIGSTOP)
    kill(broker.pid)
    until("it is dead", lambda: broker.pid not in [seen.pid for seen in nursery.alive()])
    ledgers = list((run.out / "run").glob("ledger.sqlite*"))
    assert ledgers
    for path in ledgers:
        path.unlink(missing_ok=True)
    run.command.signal(signal.SIGCONT)
    run.command.ends(0)
    exact_scripted(run.out, ITEMS, SLOTS)
