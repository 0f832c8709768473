"""Images over the bus: real broker, writer, feeders and workers, and workers that cannot see the pictures."""

from __future__ import annotations

import re
import signal
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq
from processes.raw_worker import FeederLink, RawWorker
from processes.support import Command, Nursery, Run, Terminals, free_port, kill, until
from processes.tables import exact_pictures, make_pictures

from cfbus.bus import keys
from cfbus.bus import messages as m
from cfbus.bus.sockets import Connection, Context


def test_one_box_with_a_worker_that_is_denied_the_folder(nursery: Nursery, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    make_pictures(pictures, 0, 80)
    run = Run(nursery, tmp_path / "out", pictures, "--feeder")
    run.command.ends(0)
    exact_pictures(run.out, pictures, ["caption"])
    assert "served=80" in (run.out / "run/logs/feeder.log").read_text()


class Fed:
    """A bus whose worker has no pictures, with as many feeders as are started."""

    def __init__(self, nursery: Nursery, folder: Path, pictures: Path) -> None:
        self._nursery = nursery
        self.bus = Terminals(nursery, folder / "bus", "captions.engine=palette", images=pictures)
        self.pictures = pictures

    def feeder(self, name: str, port: int | None = None) -> Command:
        arguments = ["--set", f"feeder.name={name}", "--host", "127.0.0.1", "--port", str(port or free_port())]
        return self.bus.start("feeder", *arguments)

    def worker(self) -> Command:
        return self.bus.start("gpu-0", "--set", "dataset.paths=[]", "--set", "worker.concurrency=4")


@pytest.fixture
def fed(nursery: Nursery, tmp_path: Path) -> Fed:
    pictures = tmp_path / "pictures"
    make_pictures(pictures, 0, 400)
    return Fed(nursery, tmp_path, pictures)


def end(daemons: list[Command]) -> None:
    for daemon in daemons:
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_a_feeder_that_is_killed_is_replaced(fed: Fed) -> None:
    broker, writer = fed.bus.start("broker"), fed.bus.start("writer")
    first = fed.feeder("one")
    first.says("bus.welcomed")
    worker = fed.worker()
    with fed.bus.watch() as watch:
        watch.until("some are captioned", lambda status: status.done >= 20)
        kill(first.pid)
        first.ends(-9)
        second = fed.feeder("two")
        status = watch.until("all is done and sealed", lambda status: status.finished and status.sealed, 120.0)
    assert status.done == 400
    assert status.dead_letters == 0
    exact_pictures(fed.bus.store, fed.pictures, ["caption"])
    end([worker, second, writer, broker])
    assert "served=" in second.said


def test_without_a_feeder_the_worker_waits_and_says_so(fed: Fed) -> None:
    broker, writer, worker = fed.bus.start("broker"), fed.bus.start("writer"), fed.worker()
    worker.says("no-feeder")
    feeder = fed.feeder("late")
    with fed.bus.watch() as watch:
        watch.until("it captions", lambda status: status.done > 0)
    end([worker, feeder, writer, broker])


@dataclass
class Door:
    """A feeder that runs, its port, and the key of a worker whose product does not run."""

    feeder: Command
    server: bytes
    endpoint: str
    worker: keys.KeyPair
    daemons: list[Command]


@pytest.fixture
def door(fed: Fed) -> Door:
    port = free_port()
    broker, writer = fed.bus.start("broker"), fed.bus.start("writer")
    feeder = fed.feeder("one", port)
    feeder.says("bus.welcomed")
    folder = fed.bus.folder / "keys"
    server = keys.load(folder / "feeder.key_secret").public
    own = keys.load(folder / "gpu-0.key_secret")
    return Door(feeder, server, f"tcp://127.0.0.1:{port}", own, [feeder, writer, broker])


def test_the_door_of_a_feeder(fed: Fed, door: Door) -> None:
    """Who has no lease is not let in; who has one is served its items and nothing else, until it ends."""
    context: Context = zmq.Context()
    for pair in (keys.generate(), door.worker):
        with closing(FeederLink(context, pair, door.server, door.endpoint)) as stranger:
            stranger.becomes(Connection.REFUSED)
    context.term()
    with closing(RawWorker(door.worker, fed.bus.server, fed.bus.endpoint)) as worker:
        grant, names = worker.lease(16)
        assert grant.feeder == m.Way(endpoint=door.endpoint, public=door.server.decode())
        link = worker.dial(grant.feeder)
        within = range(grant.start, grant.end)
        pictures = [(fed.pictures / name).read_bytes() for name in names]
        assert [got.image for got in link.read(grant.lease, *within)] == pictures
        assert [got.failure for got in link.read(grant.lease, grant.end, grant.start)] == ["outside", ""]
        assert link.read("0" * 16, grant.start)[0].failure == "no-lease"
        worker.link.say(m.Release(lease=grant.lease))

        def is_forbidden() -> bool:
            # Again and again: what is asked for before the lease ends for the feeder, and not read yet, never comes.
            link.ask(grant.lease, grant.start, credit=1 << 40)
            link.wait()
            link.take()
            got = link.got.pop(grant.start, None)
            return got is not None and got.failure == "no-lease"

        until("FORBID", is_forbidden)
        here = str(fed.pictures).encode()
        assert len(pictures) > 1
        assert not [frame for frame in worker.link.frames + link.frames if here in frame]
    end(door.daemons)
    assert re.search(r"refused=([3-9]|\d\d)", door.feeder.said)


def test_a_worker_that_reads_slowly_gets_no_byte_more_than_it_has_room_for(fed: Fed, door: Door) -> None:
    with closing(RawWorker(door.worker, fed.bus.server, fed.bus.endpoint)) as worker:
        grant, names = worker.lease(16)
        assert grant.feeder is not None
        link = worker.dial(grant.feeder)
        total = sum((fed.pictures / name).stat().st_size + 2 for name in names)  # columns are {}
        items = range(grant.start, grant.end)
        link.ask(grant.lease, *items, credit=0)

        def comes(wanted: int) -> None:
            def look() -> bool:
                link.take()
                return link.received >= wanted

            until(lambda: f"{link.received} of {wanted} bytes", look)
            assert link.received == wanted

        for room in (1, 100, total // 3, total // 2, total - 1, total, total + 1000):
            link.ask(grant.lease, credit=room)
            comes(min(room, total))
        assert [got.image for got in link.await_items(*items)] == [(fed.pictures / name).read_bytes() for name in names]
    end(door.daemons)
