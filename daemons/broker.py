"""cfbus-broker: grants leases, knows the keys, follows what is durable.

Joins the broker's core to its sockets, ledger and registry. One thread over a poller; the ZAP handler has its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import zmq

from cfbus import logs, notify, runtime
from cfbus.bus import auth, connections, keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.wire import WireError, decode, encode
from cfbus.column_check import check_columns
from cfbus.config import Config
from cfbus.core.broker import Broker
from cfbus.core.effects import (
    AskConfig,
    AskLedger,
    AskRegistry,
    Connection,
    Effect,
    EnrolKey,
    Leave,
    Note,
    NoteCall,
    Peer,
    Send,
    Stop,
)
from cfbus.core.watching import status
from cfbus.daemons import figures, guard, registrar
from cfbus.daemons.comparing import compared
from cfbus.daemons.flags import Start, common_flags, override, start
from cfbus.daemons.metrics import Figure, Metrics
from cfbus.daemons.publishing import Publisher
from cfbus.daemons.reconfiguring import Reconfiguring, rules_of, settings_of
from cfbus.errors import EXIT_DONE, DiskFullError, UnsafeError
from cfbus.store.durable import make_dir
from cfbus.store.ledger import Kept, Ledger

DRAIN_MESSAGES = 512
WATCHDOG_SECONDS = 5.0
CROWDED_SECONDS = 0.2
KEYS_SECONDS = 60.0
FAREWELL_SECONDS = 0.3
"""So long a key that was closed is told why before its connection is cut; what it says meanwhile is dropped."""
MAX_OWED = 10_000
DOMAINS = {
    sockets.BUS_DOMAIN: {m.Role.WORKER, m.Role.WRITER, m.Role.FEEDER, m.Role.ADMIN, m.Role.ENROL},
    sockets.STATS_DOMAIN: {m.Role.MONITOR, m.Role.ADMIN},
}


@dataclass(frozen=True, slots=True)
class PutOut:
    """What closing keys did: how many keys, how many connections of theirs and of monitors, how many leases."""

    keys: int
    connections: int
    monitors: int
    leases: int


class BrokerDaemon:
    """The broker's shell: carries out what its core decides."""

    def __init__(self, begin: Start, *, accept_loss: bool) -> None:
        settings = begin.config
        self._log = logs.get_logger()
        self._family = begin.family
        check_columns(settings)
        self._pair = keys.load(settings.broker.key_file)
        logs.register_secret(self._pair.secret.decode())
        make_dir(settings.broker.data_dir)
        spec = settings_of(settings).spec
        path = settings.broker.data_dir / "registry.sqlite"
        self._registrar = registrar.Registrar(
            registrar.Rules(path, settings.dataset.name, settings.broker.key_days, spec)
        )
        self._ledger = Ledger(settings.broker.data_dir / "ledger.sqlite")
        self._table = self._registrar.table
        rules = rules_of(settings, accept_loss=accept_loss)
        self._core = Broker(rules, runtime.new_id, self._ledger.remembered(), runtime.now())
        self._dropped: Counter[str] = Counter()
        self._owed: list[Effect] = []
        self._watchdog_at = self._keys_at = 0.0
        self._tick_at = 0.0
        self._cut_at = float("inf")
        self._loop = runtime.Loop()
        self._reconfiguring = Reconfiguring(begin.load, settings, self._loop.wake, self._take)
        self._open(settings)

    def _open(self, settings: Config) -> None:
        host, port, stats_port = settings.broker.host, settings.broker.port, settings.broker.stats_port
        self._peer_limit = connections.peer_limit()
        self._context: sockets.Context = zmq.Context()
        limits = self._core.rules.limits
        self._door = auth.Authenticator(limits.handshakes_per_minute)
        self._door.start(self._context, self._table, DOMAINS)
        self._bus, self.port = sockets.bind_bus(self._context, self._pair, host, port)
        self._peers = connections.PeerWatch(self._bus)
        self._stats, self.stats_port = sockets.bind_stats(self._context, self._pair, host, stats_port)
        self._publisher = Publisher(self._stats)
        self._metrics = Metrics(settings, "broker", self._loop, self._figures)
        self._monitors = connections.PeerWatch(self._stats)
        self._guard = guard.Guard(limits, self._door, self._peers, self._monitors, self._dropped, self._peer_limit)
        self._loop.watch(self._bus, self._receive)
        self._loop.watch(self._stats, self._subscriptions)
        self.endpoint = f"tcp://{host if host not in ('0.0.0.0', '::') else '127.0.0.1'}:{self.port}"  # noqa: S104

    def serve(self) -> int:
        """Until asked to stop."""
        connections.self_test(self.endpoint, self._pair.public)
        self._core.contributors = self._registrar.contributors
        self._loop.handle_signals()
        self._loop.on_hangup(self._hung_up)
        if self._family.parent_fd is not None:
            self._loop.follow_parent(self._family.parent_fd)
        line = keys.public_line(self._pair.public, "broker")
        self._log.info("broker.serves", endpoint=self.endpoint, stats_port=self.stats_port, server_key=line)
        self._family.ready({"port": self.port, "stats_port": self.stats_port, "server_key": line})
        try:
            return self._loop.run(self._turn, self._describe)
        finally:
            self._close()

    def _describe(self) -> str:
        view = status(self._core, runtime.now())
        doing = view.why or "leasing"
        return f"{doing}: {view.done:,} of {view.items:,} items done, {view.workers} workers, {view.rate:.1f} items/s"

    def _hung_up(self) -> None:
        """From a signal handler: keys and configuration are read again."""
        self._keys_at = 0.0
        self._reconfiguring.hangup()

    def _take(self, settings: Config) -> None:
        """What is the shell's own of a configuration that was read again."""
        own = settings_of(settings)
        self._registrar.change(settings.broker.key_days, own.spec)
        self._guard.change(own.limits)

    def _figures(self) -> Iterator[Figure]:
        return figures.of_broker(self._core, self._dropped, runtime.now())

    def _close(self) -> None:
        self._reconfiguring.close()
        self._metrics.close()
        self._peers.close()
        self._monitors.close()
        self._bus.close()
        self._stats.close()
        self._door.stop()
        self._context.term()
        self._ledger.close()
        self._registrar.close()

    # ------------------------------------------------------------------ turns

    def _turn(self, at: float) -> float:
        if self._loop.stop_requests:
            notify.tell("STOPPING=1")
            self._log.info("broker.stops")
            self._loop.stop(EXIT_DONE)
        if not self._door.alive:
            raise UnsafeError("The broker's key check has died; nobody can be let in.", "Start the broker again.")
        if at >= self._tick_at:
            self._carry_out(self._core.tick(at, runtime.wall()))
        if at >= self._watchdog_at:
            self._look_around(at)
            self._watchdog_at = at + (CROWDED_SECONDS if self._guard.crowded else WATCHDOG_SECONDS)
        if at >= self._cut_at:
            self._cut_at = float("inf")
            self._peers.cut_keys(self._admitted)
        if at >= self._keys_at:
            self._keys_at = at + KEYS_SECONDS
            self._reload_keys()
        self._carry_out(self._reconfiguring.turn(self._core, at))
        self._publisher.publish(self._core, at, lambda: self._guard.counts(self._core.counts))
        deadline = self._core.next_deadline()
        self._tick_at = float("inf") if deadline is None else deadline
        return min(
            self._watchdog_at, self._keys_at, self._cut_at, max(self._tick_at, at + 0.05), self._publisher.next_at
        )

    def _receive(self) -> None:
        batch = sockets.drain(self._bus, DRAIN_MESSAGES, self._dropped)
        at, wall = runtime.now(), runtime.wall()
        effects: list[Effect] = []
        self._guard.delivered(batch)
        for inbound in batch:
            effects += self._handle(inbound, at, wall)
        self._carry_out(effects)

    def _look_around(self, at: float) -> None:
        alarms = self._guard.look(at, self._table)
        for public, why in alarms.suspend.items():
            self._suspend(public, why)
        self._carry_out([*alarms.notes])

    def _judged(self, judged: guard.Judged, inbound: sockets.Inbound) -> list[Effect]:
        if judged.suspend:
            self._suspend(inbound.user_id, judged.suspend)
        return [Send(inbound.routing_id, judged.error)] if judged.error else []

    def _suspend(self, public: bytes, why: str) -> None:
        """For what it did; an admin resumes it."""
        self._registrar.suspend(public, why)
        self._use_table()

    def _handle(self, inbound: sockets.Inbound, at: float, wall: int) -> list[Effect]:
        entry = self._table.admitted(inbound.user_id)
        if entry is None:
            self._dropped["key-not-admitted"] += 1
            return []
        judged = self._guard.judge(inbound, entry, at)
        if judged is not None:
            return self._judged(judged, inbound)
        effects = self._understand(inbound, entry, at, wall)
        judged = self._guard.refused(entry, effects, at)
        return effects if judged is None else self._judged(judged, inbound)

    def _understand(self, inbound: sockets.Inbound, entry: auth.KeyEntry, at: float, wall: int) -> list[Effect]:
        public, expires = entry.public.decode(), registrar.microseconds(entry.expires)
        mark = keys.fingerprint(entry.public)
        peer = Peer(inbound.routing_id, mark, entry.contributor, entry.role, public, expires)
        try:
            message, payload = decode(inbound.frames)
        except WireError as error:
            return self._core.refuse(peer, error.code, str(error))
        if isinstance(message, m.Hello) and len(self._core.peers) >= self._peer_limit:
            sentence = f"This broker has {self._peer_limit} peers, as many as it may hold open."
            self._core.counts.notice("message.full")
            return [Send(peer.connection, m.Error(code="full", sentence=sentence, retry_after=60.0))]
        if isinstance(message, m.Bye):
            self._guard.said_bye(inbound)
        return self._core.handle(peer, message, payload, at, wall)

    def _carry_out(self, effects: list[Effect]) -> None:
        """What must be durable first, then what depends on it."""
        self._remember(effects)
        for effect in effects:
            match effect:
                case Send(to, message, payload):
                    self._send(to, message, payload)
                case NoteCall(peer, _, request, outcome):
                    self._registrar.note(peer, request, outcome)
                case AskConfig() | AskLedger():
                    self._carry_out(self._asked(effect))
                case AskRegistry(peer, _, request):
                    self._answer(peer, request)
                case EnrolKey(peer, request):
                    self._enrol(peer, request)
                case Note():
                    self._note(effect)
                case Leave():
                    self._loop.stop_requests += 1
                case Stop(sentence, hint):
                    raise UnsafeError(sentence, hint)
                case _:
                    pass

    def _asked(self, question: AskConfig | AskLedger) -> list[Effect]:
        if isinstance(question, AskLedger):
            return compared(question, self._ledger, self._core)
        return self._reconfiguring.ask(question)

    def _enrol(self, peer: Peer, request: m.Enrol) -> None:
        enrolled = self._registrar.enrol(peer, request)
        if self._table is not self._registrar.table:
            self._use_table()
        self._send(peer.connection, enrolled)

    def _note(self, note: Note) -> None:
        if self._guard.worth_a_line(note, runtime.now()):
            self._log.info(note.event, **dict(note.facts))
        self._publisher.happened(note, runtime.wall())

    def _send(self, to: Connection, message: m.Message, payload: bytes = b"") -> None:
        assert isinstance(to, bytes)
        sockets.send(self._bus, to, encode(message, payload))

    def _remember(self, effects: list[Effect]) -> None:
        """In the ledger. It is disposable, so a full disk must not end the bus: what it missed is written with what
        comes next, and a broker that ends before has forgotten some leases, whose unacked work is done again."""
        changes = [*self._owed, *(effect for effect in effects if isinstance(effect, Kept))]
        try:
            self._ledger.apply(changes)
        except DiskFullError as error:
            if not self._owed:
                self._log.error("ledger.no-room", why=str(error))
            self._owed = changes[-MAX_OWED:]
        else:
            self._owed = []

    # ------------------------------------------------------------------ keys and stats

    def _reload_keys(self) -> None:
        self._registrar.reload()
        self._use_table()

    def _answer(self, peer: Peer, request: m.Admin) -> None:
        """What an admin asked of the registry, and what it did to those who were on the bus."""
        reply = self._registrar.answer(peer, request)
        out = self._use_table()
        if out.keys:
            facts = (
                ("keys_closed", str(out.keys)),
                ("connections_cut", str(out.connections + out.monitors)),
                ("leases_returned", str(out.leases)),
            )
            reply = reply.model_copy(update={"facts": facts})
        self._send(peer.connection, reply)

    def _use_table(self) -> PutOut:
        """Decide by the registrar's table from now on."""
        before, self._table = self._table, self._registrar.table
        self._core.contributors = self._registrar.contributors
        self._door.swap(self._table)
        return self._put_out(before)

    def _admitted(self, public: bytes) -> bool:
        return self._table.admitted(public) is not None

    def _put_out(self, before: auth.KeyTable) -> PutOut:
        """Whose key is not admitted any more is cut, and what it held is free at once."""
        at, ended = runtime.now(), self._core.counts.ended
        gone = self._peers.closing(self._admitted)
        effects: list[Effect] = [Send(to, self._registrar.farewell(public)) for to, public in gone.items()]
        effects += [effect for connection in gone for effect in self._core.lost(connection, at)]
        if gone:
            self._cut_at = min(self._cut_at, at + FAREWELL_SECONDS)
        closed = registrar.closed(before, self._table)
        if closed:
            effects += self._core.asking.closed(frozenset(map(keys.fingerprint, closed)), at)
        # Who subscribes cannot be told apart; those who may come back are there again in a second.
        watching = any(before[public].role in DOMAINS[sockets.STATS_DOMAIN] for public in closed)
        monitors = self._monitors.cut_all() if watching else 0
        out = PutOut(len(closed), len(gone), monitors, self._core.counts.ended - ended)
        if closed or gone:
            self._log.warning(
                "keys.closed", keys=out.keys, peers_cut=out.connections, monitors_cut=monitors, leases=out.leases
            )
        self._carry_out(effects)
        return out

    def _subscriptions(self) -> None:
        self._publisher.subscriptions(sockets.drain_client(self._stats, DRAIN_MESSAGES))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@common_flags
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=int, help="The port of the bus; 0 takes any that is free.")
@click.option("--stats-port", type=int, help="The port of the statistics; 0 takes any that is free.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The folder for registry and ledger.")
@click.option("--accept-loss", is_flag=True, help="Go on although the store ends before what was acknowledged.")
def command(
    host: str | None,
    port: int | None,
    stats_port: int | None,
    data_dir: Path | None,
    accept_loss: bool,
    **common: object,
) -> None:
    """The broker: grants leases of images to workers, knows the keys, follows what is done."""
    overrides = [
        *override("--host", "broker.host", host),
        *override("--port", "broker.port", port),
        *override("--stats-port", "broker.stats_port", stats_port),
        *override("--data-dir", "broker.data_dir", data_dir.absolute() if data_dir else None),
    ]

    def serve(begin: Start) -> int:
        return BrokerDaemon(begin, accept_loss=accept_loss).serve()

    sys.exit(start("broker", serve, overrides, common))


def main() -> None:
    """Entry point."""
    command()


if __name__ == "__main__":
    main()
