"""Images over the bus: real broker, writer, feeders and workers, and workers that cannot see the pictures."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import zmq
from processes.support import Command, Nursery, Run, Terminals, free_port, kill, until
from processes.tables import exact_pictures, make_pictures

from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.sockets import Connection, Context
from cfbus.bus.wire import decode, encode


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
        settings = ("captions.engine=palette", "broker.lease_seconds=5")
        self.bus = Terminals(nursery, folder / "bus", *settings, images=pictures)
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
        daemon.ends(0, 40.0)


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


class Client:
    """Whoever has this key, at a feeder's door."""

    def __init__(self, pair: keys.KeyPair, server: bytes, port: int) -> None:
        self._context: Context = zmq.Context()
        self._socket, self._watch = sockets.connect_bus(self._context, pair, server, f"tcp://127.0.0.1:{port}")
        self._seen: list[Connection] = []

    def becomes(self, what: Connection) -> None:
        def look() -> bool:
            self._seen += self._watch.read(time.monotonic())
            return what in self._seen

        until(lambda: f"{what}: {self._seen}", look)

    def ask(self, lease: str, *items: int, credit: int = 1 << 30) -> list[m.Data]:
        """The answers to each of the items."""
        sockets.send(self._socket, None, encode(m.Fetch(lease=lease, items=items, credit=credit)))
        got: list[m.Data] = []

        def look() -> bool:
            for frames in sockets.drain_client(self._socket, 100):
                message, payload = decode(frames)
                assert isinstance(message, m.Data)
                if message.failure is not None or message.offset + len(payload) == message.size:
                    got.append(message)
            return len(got) == len(items)

        until("answers", look)
        return got

    def close(self) -> None:
        self._watch.close()
        self._socket.close(0)
        self._context.term()


def test_the_door_of_a_feeder(fed: Fed) -> None:
    """Strangers and workers without a lease are not let in; with one, nothing but its items is served."""
    port = free_port()
    broker, writer = fed.bus.start("broker"), fed.bus.start("writer")
    feeder = fed.feeder("one", port)
    feeder.says("bus.welcomed")
    folder = fed.bus.folder / "keys"
    server = keys.load(folder / "feeder.key_secret").public
    own = keys.load(folder / "gpu-0.key_secret")
    for pair in (keys.generate(), own):
        client = Client(pair, server, port)
        client.becomes(Connection.REFUSED)
        client.close()
    worker = fed.worker()
    broker.says("lease.granted")
    worker.signal(signal.SIGSTOP)
    client = Client(own, server, port)
    client.becomes(Connection.HANDSHAKE_OK)
    strange = client.ask("0" * 16, 0)[0].failure
    assert strange is not None
    assert strange.reason == "no-lease"
    client.close()
    worker.signal(signal.SIGCONT)
    end([worker, feeder, writer, broker])
    assert "refused=1" in feeder.said
