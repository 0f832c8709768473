"""cfbus-feeder: reads the dataset's source for workers that cannot reach it, and serves them the bytes.

Joins the feeder's core to the broker, to a port of its own for workers, and to a source. One thread over a poller;
reading happens in other threads and wakes it. Its door admits the keys of live leases only.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import click
import zmq

from cfbus import logs, notify, runtime
from cfbus.bus import auth, connections, keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.wire import WireError, decode, encode
from cfbus.core.effects import Note, Send, Stop
from cfbus.core.retransmit import BROKER
from cfbus.core.serving import Admit, Read, Serving, ServingEffect, ServingRules
from cfbus.daemons import figures
from cfbus.daemons.flags import Start, common_flags, override, start
from cfbus.daemons.key_age import KeyAge
from cfbus.daemons.metrics import Figure, Metrics
from cfbus.errors import EXIT_DONE, ConfigError, UnsafeError
from cfbus.link import Link
from cfbus.sources.base import Item, ReadError
from cfbus.sources.opening import open_source

DRAIN_SECONDS = 20.0
DRAIN_MESSAGES = 512
WATCHDOG_SECONDS = 5.0
ROLES = {sockets.FEED_DOMAIN: {m.Role.WORKER}}
EVERYWHERE = ("0.0.0.0", "::", "*")  # noqa: S104 - to be compared with
_MAX_DETAIL = 500


class FeederDaemon:
    """The feeder's shell: carries out what its core decides."""

    def __init__(self, begin: Start) -> None:
        settings = begin.config
        own = settings.feeder
        self._log = logs.get_logger()
        self._family = begin.family
        self._pair = keys.load(own.key_file)
        logs.register_secret(self._pair.secret.decode())
        public = runtime.server_key(own.server_key, "feeder")
        self._source = open_source(settings.dataset)
        problem = self._source.out_of_reach()
        if problem:
            raise ConfigError(f"This feeder cannot read its dataset: {problem}", "Look at dataset.paths.")
        self._wanted: queue.SimpleQueue[Read] = queue.SimpleQueue()
        self._loaded: queue.SimpleQueue[tuple[Read, bytes, bytes, m.FailedItem | None]] = queue.SimpleQueue()
        self._loop = runtime.Loop()
        self._context: sockets.Context = zmq.Context()
        self._door = auth.Authenticator()
        self._door.start(self._context, auth.KeyTable(), ROLES)
        self._table = auth.KeyTable()
        self._feed, self.port = sockets.bind_feed(self._context, self._pair, own.host, own.port)
        self._peers = connections.PeerWatch(self._feed)
        self._loop.watch(self._feed, self._receive)
        self._dropped: Counter[str] = Counter()
        self._watchdog_at = 0.0
        self._local = "127.0.0.1" if own.host in EVERYWHERE else own.host
        at = own.reachable_at or _address(own.host, self.port)
        rules = ServingRules(runtime.new_id(), own.name, at, self._source.readers, own.memory_mib << 20)
        self._core = Serving(rules, runtime.now())
        self._link = Link(self._loop, self._context, self._pair, public, own.server, self._connected, self._told)
        self._metrics = Metrics(begin.config, "feeder", self._loop, self._figures)
        self._key_age = KeyAge()
        self._drains = 0
        self._drain_until: float | None = None
        for _ in range(self._source.readers):
            # daemons: a read that hangs for good must not keep the process
            threading.Thread(target=self._read_on, name="read", daemon=True).start()

    def serve(self) -> int:
        """Until asked to stop."""
        connections.self_test(_address(self._local, self.port), self._pair.public)
        self._loop.handle_signals()
        if self._family.parent_fd is not None:
            self._loop.follow_parent(self._family.parent_fd)
        self._log.info("feeder.serves", feeds_at=self._core.rules.feeds_at)
        self._family.ready({"port": self.port})
        try:
            return self._loop.run(self._turn, self._describe)
        finally:
            self._close()

    def _figures(self) -> Iterator[Figure]:
        core = self._core
        return figures.of_feeder(core.leases, core.served, core.sent_bytes, core.refused, self._link.connected)

    def _close(self) -> None:
        self._metrics.close()
        self._peers.close()
        self._feed.close()
        self._link.close()
        self._door.stop()
        self._context.term()
        self._source.close()

    def _describe(self) -> str:
        return f"{self._core.leases} leases, {self._core.served} images and {self._core.sent_bytes >> 20} MiB served"

    # ------------------------------------------------------------------ turns

    def _turn(self, at: float) -> float:
        if not self._door.alive:
            raise UnsafeError("The feeder's key check has died; nobody can be let in.", "Start the feeder again.")
        self._take_loaded()
        if at >= self._core.next_deadline():
            self._carry_out(self._core.tick(at))
        if self._loop.stop_requests > self._drains:
            self._drain(at)
        if self._drain_until is not None and (not self._core.leases or at >= self._drain_until):
            self._leave()
        if at >= self._watchdog_at:
            self._watchdog_at = at + WATCHDOG_SECONDS
            self._peers.cut_endless()
        look = min(self._link.tick(at), self._key_age.look(at))
        times = [look, max(self._core.next_deadline(), at + 0.01), self._watchdog_at]
        return min([*times, *([self._drain_until] if self._drain_until is not None else [])])

    def _drain(self, at: float) -> None:
        """Asked once: serve what is served until it is over. Asked again: end now."""
        self._drains = self._loop.stop_requests
        notify.tell("STOPPING=1")
        self._log.info("feeder.drains", leases=self._core.leases)
        self._carry_out(self._core.drain())
        self._drain_until = at + (DRAIN_SECONDS if self._drains == 1 else 0.0)

    def _leave(self) -> None:
        self._link.send(m.Bye())
        self._log.info("feeder.stops", served=self._core.served, refused=self._core.refused)
        self._loop.stop(EXIT_DONE)

    def _connected(self) -> None:
        self._carry_out(self._core.connected(runtime.now()))

    def _told(self, message: m.Message, payload: bytes) -> None:
        if isinstance(message, m.Welcome):
            self._key_age.told(message)
        self._carry_out(self._core.handle(message, payload, runtime.now()))

    def _receive(self) -> None:
        batch = sockets.drain(self._feed, DRAIN_MESSAGES, self._dropped)
        at = runtime.now()
        for inbound in batch:
            self._carry_out(self._heard(inbound, at))
        self._peers.delivered(batch)

    def _heard(self, inbound: sockets.Inbound, at: float) -> Sequence[ServingEffect]:
        entry = self._table.admitted(inbound.user_id)
        if entry is None:
            self._dropped["key-not-admitted"] += 1
            return []
        try:
            message, _ = decode(inbound.frames)
        except WireError as error:
            return self._refuse(inbound, error.code, str(error))
        if not isinstance(message, m.Fetch):
            return self._refuse(inbound, "not-allowed", f"A worker may not send {message.TAG} to a feeder.")
        return self._core.fetch(inbound.routing_id, inbound.user_id.decode(), message, at)

    def _refuse(self, inbound: sockets.Inbound, code: str, sentence: str) -> Sequence[ServingEffect]:
        self._dropped[code] += 1
        return [Send(inbound.routing_id, m.Error(code=code, sentence=sentence))]

    # ------------------------------------------------------------------ doing it

    def _carry_out(self, effects: Sequence[ServingEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message, payload) if to == BROKER:
                    self._link.send(message, payload)
                case Send(to, message, payload):
                    assert isinstance(to, bytes)
                    if not sockets.send(self._feed, to, encode(message, payload)):
                        self._carry_out(self._core.gone(to))
                case Read():
                    self._wanted.put(effect)
                case Admit(admitted):
                    self._admit(admitted)
                case Note(event, facts):
                    self._log.info(event, **dict(facts))
                case Stop():
                    raise runtime.ended_by(effect)
                case _:
                    pass

    def _admit(self, admitted: frozenset[str]) -> None:
        """Whose key it is decides libzmq; which keys, the broker's ALLOWs. Who is not among them any more is cut."""
        self._table = auth.KeyTable(
            auth.KeyEntry(key.encode(), m.Role.WORKER, auth.KeyState.ACTIVE, "", "") for key in admitted
        )
        self._door.swap(self._table)
        for connection in self._peers.cut_keys(lambda public: self._table.admitted(public) is not None):
            self._carry_out(self._core.gone(connection))

    def _read_on(self) -> None:
        while True:
            self._read(self._wanted.get())

    def _read(self, wanted: Read) -> None:
        columns = data = b""
        failure = None
        try:
            content = self._source.read(wanted.shard, Item(wanted.index, wanted.key, wanted.locator))
            columns, data = json.dumps(dict(content.columns)).encode(), content.data
        except ReadError as error:
            failure = _failed(wanted.index, str(error.reason), error.detail, error.fault)
        except (OSError, MemoryError, ValueError) as error:
            failure = _failed(wanted.index, "read-failed", f"{type(error).__name__}: {error}", "network")
        self._loaded.put((wanted, columns, data, failure))
        self._loop.wake()

    def _take_loaded(self) -> None:
        while not self._loaded.empty():
            wanted, columns, data, failure = self._loaded.get_nowait()
            self._carry_out(self._core.loaded(wanted.to, wanted.lease, wanted.index, columns, data, failure))


def _failed(index: int, reason: str, detail: str, fault: str) -> m.FailedItem:
    said = detail.encode("utf-8", "backslashreplace").decode()[:_MAX_DETAIL]
    return m.FailedItem.model_validate({"index": index, "reason": reason, "detail": said, "fault": fault})


def _address(host: str, port: int) -> str:
    """What workers dial when nothing else was said."""
    if host in EVERYWHERE:
        raise ConfigError(
            "feeder.host listens everywhere, and nobody can dial that.",
            "Say where workers reach this feeder: feeder.reachable_at: tcp://HOST:PORT.",
        )
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@common_flags
@click.option("--server", help="The broker's address, tcp://HOST:PORT.")
@click.option("--host", help="The address to listen on for workers.")
@click.option("--port", type=int, help="The port for workers; 0 takes any that is free.")
@click.option("--reachable-at", help="Where workers reach it, tcp://HOST:PORT; by default the address it listens on.")
def command(server: str | None, host: str | None, port: int | None, reachable_at: str | None, **common: object) -> None:
    """A feeder: serves images of the dataset to workers that cannot read it themselves."""
    overrides = [
        *override("--server", "feeder.server", server),
        *override("--host", "feeder.host", host),
        *override("--port", "feeder.port", port),
        *override("--reachable-at", "feeder.reachable_at", reachable_at),
    ]
    sys.exit(start("feeder", lambda begin: FeederDaemon(begin).serve(), overrides, common))


def main() -> None:
    """Entry point."""
    command()


if __name__ == "__main__":
    main()
