"""A bus from `cfbus init` and a command in each terminal: in any order, and with restarts in the middle."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from processes.support import Command, Nursery, Terminals, until
from processes.tables import exact_pictures, exact_scripted, journal_bytes, make_pictures

ITEMS = 3000
SCRIPTED = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "captions.engine=scripted",
    "captions.scripted.rate=200",
)
SOME_BYTES = 100_000
"""All of it takes a quarter of a minute: so early that we may stand still for some seconds, and it is not done."""


def end(daemons: Sequence[Command]) -> None:
    """SIGTERM to one after the other; each drains and ends well."""
    for daemon in daemons:
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_from_init_to_a_table_in_any_order(nursery: Nursery, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    make_pictures(pictures, 0, 60)
    bus = Terminals(nursery, tmp_path / "bus", images=pictures)
    gpu, writer = bus.start("gpu-0"), bus.start("writer")
    for daemon in (gpu, writer):
        daemon.says("bus.retrying")
    broker = bus.start("broker")
    with bus.watch() as watch:
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
        assert status.done == status.items == 60
        assert status.writer == "open"
    facts = bus.admin("status")
    assert (facts["done"], facts["finished"], facts["workers"], facts["why"]) == (60, True, 1, "finished")
    exact_pictures(bus.store, pictures, ["caption"])
    end([gpu, writer, broker])
    assert not list((bus.store / "journal").glob("*.sqlite*"))


def test_a_broker_that_is_started_again_finds_all_back(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SCRIPTED)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    until("some of it is durable", lambda: journal_bytes(bus.store) > SOME_BYTES)
    end([broker])
    assert journal_bytes(bus.store) < ITEMS * 300
    broker = bus.start("broker")
    with bus.watch() as watch:
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
        # The ledger remembered the worker's leases: nothing had to be captioned twice.
        assert status.results_refused == 0
    exact_scripted(bus.store, ITEMS, ["caption"])
    end([gpu, writer, broker])


def test_a_writer_that_is_started_again_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SCRIPTED)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    until("some of it is durable", lambda: journal_bytes(bus.store) > SOME_BYTES)
    # It ends although results go on coming, and seals what it has, in one segment.
    end([writer])
    assert not list((bus.store / "journal").glob("*.sqlite*"))
    assert len(list((bus.store / "captions").glob("*.parquet"))) == 1
    with bus.watch() as watch:
        away = watch.until("the writer is away", lambda s: s.writer == "away")
        assert away.why == "writer-away"
        assert 0 < away.done < ITEMS
        writer = bus.start("writer")
        watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
    exact_scripted(bus.store, ITEMS, ["caption"])
    end([gpu, writer, broker])


def test_a_worker_that_ends_hands_back_and_delivers(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SCRIPTED)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    until("some of it is durable", lambda: journal_bytes(bus.store) > SOME_BYTES)
    end([gpu])
    with bus.watch() as watch:
        status = watch.until("nothing is leased", lambda s: not s.leased and not s.workers)
        assert 0 < status.done < ITEMS
    end([writer, broker])
    assert not list((bus.folder / "spool").rglob("*.result"))
