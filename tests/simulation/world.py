"""A simulated bus: the real cores of broker, writer and workers on a made-up network, disk and clock.

One seed decides everything. Links lose, double, delay and reorder messages, break, and break one way only; processes
crash at any step and start again from what was durable; disks fill; the writer stalls; workers lie, forge, stall, drain
and come back. What must be true at every step is in ``judge``.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from simulation.disk import Disk, Ledger, Place
from simulation.faults import Faults, has_staged
from simulation.feeders import Feeders
from simulation.judge import Judge
from simulation.network import Network, Node
from simulation.plan import Plan
from simulation.redos import Redos
from simulation.reloads import Reloads
from simulation.shells import Shells

from cfbus.bus import messages as m
from cfbus.core import broker as broker_module
from cfbus.core import effects as e
from cfbus.core import telling as telling_module
from cfbus.core import writer as writer_module
from cfbus.core.broker import Broker
from cfbus.core.feeding import UNREACHABLE_SECONDS
from cfbus.core.serving import ServingEffect
from cfbus.core.state import Remembered, Rules
from cfbus.core.watching import status
from cfbus.core.worker import Worker
from cfbus.core.writer import Writer

BEGIN = 100.0
LIMIT_SECONDS = 600.0
"""So long after the storm everything must have ended."""
MAX_IDLE_TICKS = 8
FED_FROM = 100_000
"""From this seed on there are feeders, and workers that cannot read the source."""


class World:
    """One seed's bus."""

    def __init__(self, seed: int, *, whole_story: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.plan = plan = Plan.of(self.rng, fed=seed >= FED_FROM)
        self.now = BEGIN
        self.calm_since = BEGIN + plan.calm_after
        self._limit = LIMIT_SECONDS + (UNREACHABLE_SECONDS if plan.feeders else 0.0)
        self.seen: Counter[str] = Counter()
        self.story: deque[str] = deque(maxlen=None if whole_story else 200)
        self.disk = Disk()
        self.ledger = Ledger()
        self.full_until = 0.0
        self.broker: Broker | None = None
        self.broker_since = BEGIN
        self.reloads = Reloads(self)
        self.redos = Redos(self)
        self.net = Network(self)
        self.judge = Judge(self)
        self.faults = Faults(self)
        self.shells = Shells(self)
        self.writer = Node("writer", m.Role.WRITER, "writer")
        self.workers = [
            Node(f"w{i}", m.Role.WORKER, f"c{i % plan.contributors}", speed=plan.speeds[i]) for i in range(plan.workers)
        ]
        self.feeders = Feeders(self)
        self._cast()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._broker_timer: float | None = None
        self._idle_ticks = 0
        self._tasks: set[str] = set()

    @property
    def nodes(self) -> list[Node]:
        """All processes but the broker's."""
        return [self.writer, *self.workers, *self.feeders.nodes]

    def _cast(self) -> None:
        for at in self.plan.far:
            self.workers[at].reads = False
        if len(self.workers) == 1:
            return
        self.workers[-1].liar = self.plan.liar
        self.workers[0].zombie = self.plan.zombie
        if self.plan.hostile:
            self.workers[-1].hostile = True
            self.workers[-1].contributor = "evil"

    # ------------------------------------------------------------------ time

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Do this after so many seconds."""
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + seconds, self._sequence, call))

    def new_id(self) -> str:
        """A random id."""
        return f"{self.rng.getrandbits(64):016x}"

    @property
    def storm(self) -> bool:
        """Faults still happen."""
        return self.now < self.calm_since

    def tell(self, line: str) -> None:
        """A line of the story."""
        self.story.append(f"{self.now:8.2f} {line}")

    def run(self) -> None:
        """Until everything is captioned, or too late."""
        kept = [(module, module.PAGE_BYTES) for module in (broker_module, writer_module, telling_module)]
        for module, _ in kept:
            module.PAGE_BYTES = self.plan.page_bytes  # type: ignore[attr-defined]
        try:
            self._run()
        finally:
            for module, size in kept:
                module.PAGE_BYTES = size  # type: ignore[attr-defined]

    def _run(self) -> None:
        self.shells.start_writer()
        self.start_broker()
        for worker in self.workers:
            self.shells.start_worker(worker)
        for feeder in self.feeders.nodes:
            self.feeders.start(feeder)
        self.faults.begin()
        while self._queue:
            self.now, _, call = heapq.heappop(self._queue)
            assert self.now < self.calm_since + self._limit, f"it does not end: {self._stuck()}"
            call()
            self.judge.step()
            if not self.storm and self._ended():
                break
        self.check()
        self.judge.end()

    def check(self) -> None:
        """The broker's own invariants."""
        if self.broker is not None:
            self.broker.check()

    def _stuck(self) -> str:
        state = status(self.broker, self.now) if self.broker else None
        missing = [place for place in self.places() if place not in self.disk.items]
        return f"missing {missing[:5]} of {len(missing)}; {state}; {list(self.story)[-20:]}"

    def _ended(self) -> bool:
        if self.broker is None or not self.broker.finished or not self.broker.catchup.sealed:
            return False
        if not self.reloads.followed():
            return False
        return all(isinstance(worker.core, Worker) and not worker.core.unacked for worker in self.workers)

    def places(self) -> Iterator[Place]:
        """All items of all passes."""
        for number in range(1, len(self.disk.passes) + 1):
            for shard, length in enumerate(self.plan.shards):
                for index in range(length):
                    if self._wanted(number, shard, index):
                        yield number, shard, index

    def _wanted(self, number: int, shard: int, index: int) -> bool:
        if number in self.disk.closed:
            return (number, shard, index) in self.disk.items
        return number not in self.disk.selected or (shard, index) in self.disk.selected[number]

    # ------------------------------------------------------------------ the broker's process

    def start_broker(self) -> None:
        """The broker starts from its ledger."""
        rules = Rules(
            dataset="d",
            spec=self.reloads.spec(),
            instance=self.new_id(),
            chunk_size=self.reloads.chunk,
            lease_seconds=self.plan.lease_seconds,
            heartbeat_seconds=2.0,
            max_attempts=2,
        )
        store_id, position = self.ledger.store
        ledger = self.ledger
        kept = (tuple(ledger.leases.values()), ledger.granted, ledger.generation, ledger.spec)
        remembered = Remembered(store_id, position, *kept)
        self.broker = Broker(rules, self.new_id, remembered, self.now)
        self.broker_since = self.now
        self.judge.broker_started()
        self.reloads.holds()
        self.feeders.broker_started()
        self.wake_broker()

    def crash_broker(self) -> None:
        """The broker's process ends; its ledger survives, or not."""
        if self.broker is None:
            return
        self.seen["crash: broker"] += 1
        self.seen["crash: broker with live leases"] += bool(self.broker.leases.current())
        self.seen["crash: broker with undelivered dead letters"] += bool(self.broker.verdicts.undelivered)
        self.tell("broker crashes")
        self.broker = None
        self._broker_timer = None
        for node in self.nodes:
            self.net.unlink(node)
        lost = self.rng.random() < self.plan.ledger_lost
        self.seen["ledger lost" if lost else "ledger kept"] += 1
        if lost:
            self.ledger = Ledger(granted=self.ledger.granted)
            self.reloads.forgotten = True
        self.later(self.rng.uniform(0.1, 5.0), self.start_broker)

    def wake_broker(self) -> None:
        """Let the broker's clock ring when it says so, and not before."""
        due = self.broker.next_deadline() if self.broker is not None else None
        if due is None or (self._broker_timer is not None and self._broker_timer <= due):
            return
        self._broker_timer = due = max(due, self.now + 0.001)

        def ring() -> None:
            if self.broker is None or self._broker_timer != due:
                return
            self._broker_timer = None
            effects = self.broker.tick(self.now, int(self.now * 1e6))
            self._idle_ticks = 0 if effects else self._idle_ticks + 1
            again = self.broker.next_deadline()
            if again is None or again > self.now:
                self._idle_ticks = 0
            assert self._idle_ticks < MAX_IDLE_TICKS, "the broker turns without anything to do"
            self.broker_effects(effects)

        self.later(due - self.now, ring)

    def broker_hears(self, node: Node, peer: e.Peer, message: m.Message, payload: bytes) -> None:
        """A message arrives."""
        assert self.broker is not None
        if isinstance(message, m.State) and message.snapshot and message.last:
            self.judge.caught_up = self.judge.caught_up or node.connection == peer.connection
            self.seen["state of several pages"] += message.page > 1
        if isinstance(message, m.Renew) and self.broker.ready and peer.connection in self.broker.peers:
            for held in message.leases:
                self.judge.moved(held.lease, held.captioned)
        self.feeders.heard(node, message)
        before = None if self.judge.may_change(node, message) else self.judge.leases()
        followed = self.broker.writer is not None and self.broker.writer.connection == peer.connection
        effects = self.broker.handle(peer, message, payload, self.now, int(self.now * 1e6))
        if before is not None and self.broker.writer is not None:
            self.judge.nothing_changed(before, message)
        self.broker_effects(effects)
        if isinstance(message, m.Commit) and followed and self.broker is not None:
            assert self.ledger.store[1] >= message.position, "the broker does not remember how far the store is"

    def broker_effects(self, effects: list[e.Effect]) -> None:
        """What must be durable first, then all else; the process may end in between."""
        rest = [effect for effect in effects if not self.ledger.apply(effect)]
        crash_at = self._crash_point(len(rest))
        for at, effect in enumerate(rest):
            if at == crash_at:
                self.seen["crash: broker between ledger and send"] += 1
                self.crash_broker()
                return
            if isinstance(effect, e.Send):
                self._from_broker(effect)
            elif isinstance(effect, e.Note):
                self.note(effect)
            else:
                raise AssertionError(f"the broker gave up: {effect}")
        self.feeders.settled(self.judge.ways)
        self.wake_broker()

    def _crash_point(self, effects: int) -> int | None:
        if not effects or not self.storm or self.rng.random() >= self.plan.crashes * 0.01:
            return None
        return self.rng.randrange(effects)

    def _from_broker(self, effect: e.Send) -> None:
        assert isinstance(effect.to, tuple)
        name, epoch = effect.to
        node = next(node for node in self.nodes if node.name == name)
        self.feeders.sent(node, effect.to, effect.message)
        self.reloads.sent(node, effect.message)
        if isinstance(effect.message, m.Grant):
            self.feeders.granted(node, effect.message)
            self.judge.granted(node, effect.message)
        if node.epoch != epoch:
            self.seen["sent to a connection that is gone"] += 1
            return
        self.net.from_broker(node, effect.message, effect.payload)

    # ------------------------------------------------------------------ the other processes

    def crash(self, node: Node, *, left: bool = False) -> None:
        """A process ends; what it had in memory is gone."""
        if not left:
            self.seen[f"crash: {node.role.value}"] += 1
            self.seen["crash: worker with unacked results"] += isinstance(node.core, Worker) and node.core.unacked > 0
            self.seen["crash: writer with staged results"] += has_staged(node)
        self.tell(f"{node.name} {'left' if left else 'crashes'}")
        node.core = None
        node.life += 1
        node.epoch += 1
        node.linked = False
        node.timer = None
        node.stalled_until = 0.0
        if node is self.writer:
            self.judge.writer_stalls(False)
            start = self.shells.start_writer
        elif node.role is m.Role.FEEDER:
            start = lambda: self.feeders.start(node)  # noqa: E731
        else:
            start = lambda: self.shells.start_worker(node)  # noqa: E731
        self.later(self.rng.uniform(0.1, 10.0), start)

    def wake(self, node: Node) -> None:
        """Let a process's clock ring when it says so, and not before."""
        if node.core is None:
            return
        due = max(node.core.next_deadline(), self.now + 0.001, node.stalled_until)
        if node.timer is not None and node.timer <= due:
            return
        node.timer, life = due, node.life

        def ring() -> None:
            if node.core is None or node.life != life or node.timer != due:
                return
            node.timer = None
            if self.now >= node.stalled_until:
                effects = node.core.tick(self.now)
                idle = not effects and node.core.next_deadline() <= self.now
                node.idle_ticks = node.idle_ticks + 1 if idle else 0
                assert node.idle_ticks < MAX_IDLE_TICKS, f"{node.name} turns without anything to do"
                self.node_effects(node, effects)
                self.shells.feed(node)
            self.wake(node)

        self.later(due - self.now, ring)

    def node_hears(self, node: Node, message: m.Message, payload: bytes) -> None:
        """The broker said something."""
        assert node.core is not None
        if isinstance(message, m.Ack):
            for acked in message.results:
                self.judge.acked_by(acked)
        if isinstance(message, m.Welcome | m.Grant | m.Renewed | m.Ack):
            node.window = message.window
            node.widest = max(node.widest, node.window)
        effects = node.core.handle(message, payload, self.now)
        if isinstance(message, m.Task):
            twin = not effects and message.task not in self._tasks
            self.seen["task asked anew"] += twin
            self._tasks.add(message.task)
        self.node_effects(node, effects)
        if isinstance(node.core, Writer):
            self.shells.flush_soon()
        self.shells.feed(node)
        self.wake(node)

    def node_effects(self, node: Node, effects: Sequence[ServingEffect]) -> None:
        """Carry out, in order; the process may end in between."""
        crash_at = self._crash_point(len(effects))
        for at, effect in enumerate(effects):
            if at == crash_at and node.core is not None:
                self.seen[f"crash: {node.role.value} between effects"] += 1
                self.crash(node)
                return
            self.shells.carry_out(node, effect)

    def note(self, note: e.Note) -> None:
        """A log line."""
        self.seen[f"note: {note.event}"] += 1
        self.tell(f"{note.event} {dict(note.facts)}")
        self.judge.event(note)
