"""A simulated bus: the real cores of broker, writer and workers on a made-up network, disk and clock.

One seed decides everything. Links lose, double, delay and reorder messages and break; processes crash at any step and
start again from what was durable; disks fill; workers lie, stall and come back. After every step the invariants hold:
what a worker was told is stored is on the disk, no item is there twice, at most one primary lease covers an item.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import decode, decode_table, encode, encode_table
from cfbus.core import effects as e
from cfbus.core.broker import Broker
from cfbus.core.frame import JournalFrame
from cfbus.core.frame import JournalFrame
from cfbus.core.outcome import Caption, EngineFacts, ImageFacts, Outcome, WorkItem
from cfbus.core.state import Remembered, Rules
from cfbus.core.watching import status
from cfbus.core.worker import Worker, WorkerRules
from cfbus.core.writer import Writer, WriterRules

STORE = "5" * 16
LIMIT_SECONDS = 4000.0
Place = tuple[int, int, int]


@dataclass
class Plan:
    """What a seed makes happen."""

    shards: list[int]
    slots: tuple[str, ...]
    workers: int
    contributors: int
    chunk: int
    lease_seconds: float
    loss: float
    double: float
    jitter: float
    breaks: float  # links broken per second, over all links
    crashes: float  # processes crashed per second, over all processes
    disk_full: float
    bad: set[tuple[int, int]]
    flaky: float
    liar: bool
    zombie: bool
    slow_writer: float
    ledger_lost: float
    calm_after: float
    new_slot_at: float | None
    speeds: list[float]

    @classmethod
    def of(cls, rng: random.Random) -> Plan:
        """A plan for this seed."""
        shards = [rng.randint(1, 60) for _ in range(rng.randint(1, 5))]
        workers = rng.randint(1, 5)
        stormy = rng.random() < 0.8
        places = [(shard, index) for shard, length in enumerate(shards) for index in range(length)]
        return cls(
            shards=shards,
            slots=("a",) if rng.random() < 0.6 else ("a", "b"),
            workers=workers,
            contributors=rng.randint(1, workers),
            chunk=rng.choice([1, 3, 8, 20, 100]),
            lease_seconds=rng.choice([4.0, 10.0, 40.0]),
            loss=rng.choice([0.0, 0.01, 0.05]) if stormy else 0.0,
            double=rng.choice([0.0, 0.02, 0.1]) if stormy else 0.0,
            jitter=rng.choice([0.0, 0.01, 0.5]),
            breaks=rng.choice([0.0, 0.05, 0.3]) if stormy else 0.0,
            crashes=rng.choice([0.0, 0.02, 0.15]) if stormy else 0.0,
            disk_full=rng.choice([0.0, 0.02]) if stormy else 0.0,
            bad=set(rng.sample(places, min(len(places), rng.choice([0, 0, 1, 3])))),
            flaky=rng.choice([0.0, 0.0, 0.05]),
            liar=rng.random() < 0.15,
            zombie=rng.random() < 0.2,
            slow_writer=rng.choice([0.0, 0.0, 0.5, 5.0]),
            ledger_lost=rng.choice([0.0, 0.3, 1.0]),
            calm_after=rng.uniform(5.0, 120.0),
            new_slot_at=rng.uniform(1.0, 60.0) if rng.random() < 0.2 else None,
            speeds=[rng.choice([0.02, 0.1, 0.5, 2.0]) for _ in range(workers)],
        )


@dataclass
class Disk:
    """What survives a crash of the writer."""

    shards: list[tuple[str, int]] = field(default_factory=list)
    passes: list[tuple[str, ...]] = field(default_factory=list)
    frames: list[JournalFrame] = field(default_factory=list)
    items: dict[Place, str] = field(default_factory=dict)
    dead: set[Place] = field(default_factory=set)

    def write(self, frame: JournalFrame) -> None:
        """A frame becomes durable; every item of it that counts must be new."""
        assert frame.position == len(self.frames) + 1, "positions have gaps"
        self.frames.append(frame)
        table = decode_table(frame.table, frame.frame)
        indices = [index for start, end in frame.ranges for index in range(start, end)]
        for at, index in enumerate(indices):
            if frame.mask is not None and not frame.mask[at // 8] >> at % 8 & 1:
                continue
            place = (frame.pass_number, frame.shard, index)
            assert place not in self.items, f"{place} is stored twice"
            if frame.table == "failures":
                self.items[place] = "failed"
                self.dead.add(place)
                continue
            slots = len(table.slot_names)
            self.items[place] = "|".join(table.text("caption").texts()[at * slots : (at + 1) * slots])
            want = "|".join(f"{slot} of {frame.shard}/{index}" for slot in self.passes[frame.pass_number - 1])
            assert self.items[place] == want, f"{place} has another item's caption"


@dataclass
class Node:
    """A simulated process: its core while it is up, and its link to the broker."""

    name: str
    contributor: str = ""
    core: Worker | Writer | None = None
    epoch: int = 0  # of the link; messages of older epochs are lost
    linked: bool = False
    life: int = 0  # of the process
    spool: dict[tuple[str, int], tuple[m.Result, bytes]] = field(default_factory=dict)
    speed: float = 0.1
    liar: bool = False
    zombie: bool = False
    left: bool = False


class World:
    """One seed's bus."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.plan = Plan.of(self.rng)
        self.now = 100.0
        self.seen: Counter[str] = Counter()
        self.story: list[str] = []
        self.disk = Disk()
        self.ledger: dict[str, e.LeaseRow] = {}
        self.ledger_store = ("", 0)
        self.broker: Broker | None = None
        self.broker_life = 0
        self.slots = self.plan.slots
        self.writer = Node("writer")
        self.workers = [
            Node(f"w{i}", f"c{i % self.plan.contributors}", speed=self.plan.speeds[i]) for i in range(self.plan.workers)
        ]
        if self.plan.liar and len(self.workers) > 1:
            self.workers[-1].liar = True
        if self.plan.zombie and len(self.workers) > 1:
            self.workers[0].zombie = True
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._timers: set[str] = set()
        self._full_until = 0.0
        self._flush_due = False

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
        return self.now < 100.0 + self.plan.calm_after

    def run(self) -> None:
        """Until everything is captioned, or too late."""
        self.start_writer()
        self.start_broker()
        for worker in self.workers:
            self.start_worker(worker)
        self._schedule_faults()
        if self.plan.new_slot_at is not None:
            self.later(self.plan.new_slot_at, self._new_slot)
        while self._queue:
            self.now, _, call = heapq.heappop(self._queue)
            assert self.now < 100.0 + LIMIT_SECONDS, f"it does not end: {self._stuck()}"
            call()
            if self.broker is not None:
                self.broker.check()
            if not self.storm and self._ended():
                break
        self._check_end()

    def _stuck(self) -> str:
        state = status(self.broker, self.now) if self.broker else None
        missing = [place for place in self._places() if place not in self.disk.items]
        return f"missing {missing[:5]} of {len(missing)}; {state}; {self.story[-20:]}"

    def _ended(self) -> bool:
        if self.broker is None or not self.broker.finished or not self.broker.catchup.sealed:
            return False
        return all(
            not worker.core.unacked for worker in self.workers if isinstance(worker.core, Worker) and not worker.zombie
        )

    def _places(self) -> Iterator[Place]:
        for number in range(1, len(self.disk.passes) + 1):
            for shard, length in enumerate(self.plan.shards):
                for index in range(length):
                    yield number, shard, index

    def _check_end(self) -> None:
        missing = [place for place in self._places() if place not in self.disk.items]
        assert not missing, f"never done: {missing[:5]} of {len(missing)}"
        assert {slot for slots in self.disk.passes for slot in slots} == set(self.slots)
        if not any(worker.liar for worker in self.workers) and not self.plan.flaky:
            assert {place[1:] for place in self.disk.dead} <= self.plan.bad, "a good item was given up"
        stored = {place[1:] for place in self.disk.items if place not in self.disk.dead}
        assert not stored & self.plan.bad

    # ------------------------------------------------------------------ faults

    def _schedule_faults(self) -> None:
        for rate, fault in (
            (self.plan.breaks, self._break_a_link),
            (self.plan.crashes, self._crash_something),
            (self.plan.disk_full, self._fill_disk),
        ):
            if rate:
                self._again(rate, fault)

    def _again(self, rate: float, fault: Callable[[], None]) -> None:
        def strike() -> None:
            if self.storm:
                fault()
                self._again(rate, fault)

        self.later(self.rng.expovariate(rate), strike)

    def _break_a_link(self) -> None:
        node = self.rng.choice([self.writer, *self.workers])
        if node.linked:
            self.seen[f"link broken: {node.name[0]}"] += 1
            self.unlink(node)

    def _crash_something(self) -> None:
        victim = self.rng.choice(["broker", self.writer, *self.workers])
        if victim == "broker":
            self.crash_broker()
        elif isinstance(victim, Node) and victim.core is not None:
            self.crash(victim)

    def crash_broker(self) -> None:
        """The broker's process ends; its ledger survives, or not."""
        if self.broker is None:
            return
        self.seen["crash: broker"] += 1
        self.story.append(f"{self.now:.2f} broker crashes")
        self.broker = None
        self.broker_life += 1
        for node in [self.writer, *self.workers]:
            self.unlink(node)
        if self.rng.random() < self.plan.ledger_lost:
            self.seen["ledger lost"] += 1
            self.ledger.clear()
            self.ledger_store = ("", 0)
        self.later(self.rng.uniform(0.1, 5.0), self.start_broker)

    def crash(self, node: Node) -> None:
        """A process ends; what it had in memory is gone."""
        self.seen[f"crash: {node.name[0]}"] += 1
        if isinstance(node.core, Worker) and node.core.unacked:
            self.seen["crash: worker with unacked results"] += 1
        if isinstance(node.core, Writer) and node.core.has_staged:
            self.seen["crash: writer with staged results"] += 1
        self.story.append(f"{self.now:.2f} {node.name} crashes")
        node.core = None
        node.life += 1
        node.epoch += 1
        node.linked = False
        start = self.start_writer if node is self.writer else lambda: self.start_worker(node)
        self.later(self.rng.uniform(0.1, 10.0), start)

    def _fill_disk(self) -> None:
        self._full_until = self.now + self.rng.uniform(0.5, 20.0)

    def _new_slot(self) -> None:
        """The maintainer adds a slot and starts the broker again."""
        self.seen["slot added"] += 1
        self.slots = (*self.slots, "z")
        if self.broker is not None:
            self.crash_broker()

    # ------------------------------------------------------------------ processes

    def start_broker(self) -> None:
        """The broker starts from its ledger."""
        slots = tuple(m.Slot(name=name, prompt=f"write {name}", prompt_id=name) for name in self.slots)
        spec = m.Spec(hash="e" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=slots)
        rules = Rules(
            dataset="d",
            spec=spec,
            instance=self.new_id(),
            chunk_size=self.plan.chunk,
            lease_seconds=self.plan.lease_seconds,
            heartbeat_seconds=2.0,
            max_attempts=2,
        )
        store_id, position = self.ledger_store
        remembered = Remembered(store_id, position, tuple(self.ledger.values()), len(self.ledger))
        self.broker = Broker(rules, self.new_id, remembered, self.now)
        self._broker_timer(self.broker_life)

    def _broker_timer(self, life: int) -> None:
        if self.broker is None or life != self.broker_life:
            return
        self._broker_effects(self.broker.tick(self.now, int(self.now * 1e6)))
        self.later(0.5, lambda: self._broker_timer(life))

    def start_writer(self) -> None:
        """The writer starts from the disk."""
        self.writer.life += 1
        rules = WriterRules(STORE, "d", self.new_id(), "writer")
        core = Writer(rules, len(self.disk.frames), self.now)
        for name, length in self.disk.shards:
            core.know_shard(name, length)
        for number, slots in enumerate(self.disk.passes, 1):
            core.know_pass(number, slots)
        for number, shard, index in self.disk.items:
            core.know_done(number, shard, [(index, index + 1)])
        core.know_totals(len(self.disk.items) - len(self.disk.dead), len(self.disk.dead))
        self.writer.core = core
        self._flush_due = False
        self._link(self.writer)
        self._node_timer(self.writer, self.writer.life)

    def start_worker(self, node: Node) -> None:
        """A worker starts with a new instance and what its spool has."""
        node.life += 1
        rules = WorkerRules(self.new_id(), node.name, 4, result_items=self.rng.choice([1, 4, 64]), resend_seconds=5.0)
        core = Worker(rules, EngineFacts("scripted", "none"), self.now)
        if node.spool:
            self.seen["spool replayed"] += 1
        core.restore(node.spool.values(), self.now)
        node.core = core
        self._link(node)
        self._node_timer(node, node.life)

    def _node_timer(self, node: Node, life: int) -> None:
        if node.core is None or node.life != life:
            return
        self._node_effects(node, node.core.tick(self.now))
        self._feed(node)
        wait = max(node.core.next_deadline() - self.now, 0.01)
        self.later(min(wait, 1.0), lambda: self._node_timer(node, life))

    # ------------------------------------------------------------------ network

    def _link(self, node: Node) -> None:
        node.epoch += 1
        node.linked = True
        if node.core is not None:
            self._node_effects(node, node.core.connected(self.now))

    def unlink(self, node: Node) -> None:
        """The connection breaks: what was on its way is lost; it comes back after a while."""
        if not node.linked:
            return
        node.linked = False
        node.epoch += 1
        life = node.life

        def again() -> None:
            if node.life == life and not node.linked and node.core is not None:
                self._link(node)

        self.later(self.rng.uniform(0.05, 8.0), again)

    def _carry(self, name: str, node: Node, deliver: Callable[[], None]) -> None:
        """One message over a link: lost, doubled or late, as the seed has it."""
        if not node.linked:
            self.seen["sent without link"] += 1
            return
        epoch = node.epoch
        copies = 1
        if self.storm:
            chance = self.rng.random()
            if chance < self.plan.loss:
                self.seen[f"lost: {name}"] += 1
                return
            if chance < self.plan.loss + self.plan.double:
                self.seen[f"doubled: {name}"] += 1
                copies = 2
        for _ in range(copies):
            delay = 0.001 + self.rng.random() * self.plan.jitter * (self.rng.random() < 0.3)
            if delay > 0.1:
                self.seen[f"late: {name}"] += 1
            self.later(delay, lambda: deliver() if node.epoch == epoch else None)

    def to_broker(self, node: Node, message: m.Message, payload: bytes) -> None:
        """A peer sends."""
        frames = encode(message, payload)
        role = m.Role.WRITER if node is self.writer else m.Role.WORKER
        peer = e.Peer((node.name, node.epoch), f"key-{node.name}", node.contributor or "writer", role)

        def deliver() -> None:
            if self.broker is not None:
                back, body = decode(frames)
                self._broker_effects(self.broker.handle(peer, back, body, self.now, int(self.now * 1e6)))

        self._carry(message.TAG, node, deliver)

    def _broker_effects(self, effects: list[e.Effect]) -> None:
        sent = False
        for effect in effects:
            if isinstance(effect, e.SaveLease):
                assert not sent, "a lease is saved after something was sent"
                self.ledger[effect.row.lease] = effect.row
            elif isinstance(effect, e.DropLeases):
                for lease in effect.leases:
                    self.ledger.pop(lease, None)
            elif isinstance(effect, e.SavePosition):
                self.ledger_store = (effect.store_id, effect.position)
            elif isinstance(effect, e.Send):
                sent = True
                self._from_broker(effect)
            elif isinstance(effect, e.Note):
                self._note(effect)
            else:
                raise AssertionError(f"the broker gave up: {effect}")

    def _note(self, note: e.Note) -> None:
        facts = dict(note.facts)
        self.seen[f"note: {note.event}"] += 1
        if note.event == "lease.granted" and facts["backup"]:
            self.seen["backup granted"] += 1
        self.story.append(f"{self.now:.2f} {note.event} {facts}")
        del self.story[:-200]

    def _from_broker(self, effect: e.Send) -> None:
        name, epoch = effect.to  # type: ignore[misc]
        node = self.writer if name == "writer" else next(node for node in self.workers if node.name == name)
        if node.epoch != epoch:
            self.seen["sent to a connection that is gone"] += 1
            return
        frames = encode(effect.message, effect.payload)

        def deliver() -> None:
            if node.core is None:
                return
            back, body = decode(frames)
            self._before_worker(node, back)
            self._node_effects(node, node.core.handle(back, body, self.now))
            if node is self.writer:
                self._flush_soon()
            self._feed(node)

        self._carry(effect.message.TAG, node, deliver)

    def _before_worker(self, node: Node, message: m.Message) -> None:
        """What a worker is told must be true."""
        if not isinstance(message, m.Ack):
            return
        core = node.core
        assert isinstance(core, Worker)
        for acked in message.results:
            kept = core._results._kept.get((acked.instance, acked.number))
            if kept is None or acked.status == "refused" or not isinstance(kept.message, m.Result):
                self.seen[f"ack: {acked.status}"] += 1
                continue
            self.seen[f"ack: {acked.status}"] += 1
            pass_numbers = range(1, len(self.disk.passes) + 1)
            held = core._held.get(kept.message.lease)
            if held is None:
                continue
            for start, end in kept.message.ranges:
                for index in range(start, end):
                    place = (held.grant.pass_number, held.grant.shard, index)
                    assert place in self.disk.items, f"{place} was acked and is not on the disk"
                    assert held.grant.pass_number in pass_numbers

    # ------------------------------------------------------------------ the shells of writer and workers

    def _node_effects(self, node: Node, effects: list[e.Effect]) -> None:
        for effect in effects:
            match effect:
                case e.Send():
                    self.to_broker(node, effect.message, effect.payload)
                case e.StartTask():
                    self.later(self.rng.uniform(0.0, 2.0), lambda task=effect, life=node.life: self._task(task, life))  # type: ignore[misc]
                case e.ProbeRoom():
                    if self.now >= self._full_until and isinstance(node.core, Writer):
                        self._node_effects(node, node.core.has_room(self.now))
                case e.ReadListing():
                    self._read_listing(effect)
                case e.Spool():
                    node.spool[effect.instance, effect.number] = (effect.message, effect.payload)
                case e.Unspool():
                    node.spool.pop((effect.instance, effect.number), None)
                    if effect.refused:
                        self.seen["rejected"] += 1
                case e.Note():
                    self._note(effect)
                case e.Abandon() | e.UseSpec():
                    pass
                case _:
                    raise AssertionError(f"{node.name} gave up: {effect}")

    def _read_listing(self, effect: e.ReadListing) -> None:
        keys = [f"{effect.shard}/{index}" for index in range(effect.start, effect.end)]
        if self.rng.random() < 0.1:
            keys = keys[: max(len(keys) // 2, 1)]  # as if the rest did not fit a frame
        payload = encode_table(build("listing", len(keys), {"key": keys, "locator": [b""] * len(keys)}))
        listed = m.Listed(shard=effect.shard, start=effect.start, rows=len(keys))
        self.to_broker(self.writer, listed, payload)

    def _task(self, task: e.StartTask, life: int) -> None:
        core = self.writer.core
        if not isinstance(core, Writer) or self.writer.life != life:
            return
        effects: list[e.Effect] = []
        count = 0
        if task.kind == "scan":
            for shard in range(len(self.disk.shards), len(self.plan.shards)):
                self.disk.shards.append((f"s{shard}", self.plan.shards[shard]))
                effects += core.shards_listed([self.disk.shards[-1]])
        elif task.kind == "open-pass":
            if not self.disk.passes or self.disk.passes[-1] != task.slots:
                self.disk.passes.append(task.slots)
                effects += core.pass_opened(len(self.disk.passes), task.slots)
        elif task.kind == "seal":
            count = core.position
        effects += core.task_ended(task.task, "", count)
        self._node_effects(self.writer, effects)

    def _flush_soon(self) -> None:
        core = self.writer.core
        if self._flush_due or not isinstance(core, Writer) or not core.has_staged:
            return
        self._flush_due = True
        life = self.writer.life
        wait = 0.005 + self.rng.random() * self.plan.slow_writer * self.storm
        self.later(wait, lambda: self._flush(life))

    def _flush(self, life: int) -> None:
        core = self.writer.core
        if not isinstance(core, Writer) or self.writer.life != life:
            return
        self._flush_due = False
        if self.now < self._full_until and core.staged_frames():
            self.seen["disk full"] += 1
            self._node_effects(self.writer, core.not_stored(self.now))
            return
        for frame in core.staged_frames():
            self.disk.write(frame)
        if self.storm and self.plan.crashes and self.rng.random() < 0.01:
            self.seen["crash: writer between commit and COMMIT"] += 1
            self.crash(self.writer)
            return
        self._node_effects(self.writer, core.stored(self.now))

    def _feed(self, node: Node) -> None:
        core = node.core
        if not isinstance(core, Worker) or (node.zombie and self.storm):
            return
        for item in core.next_items(4 - core.in_flight):
            self.seen["captioned"] += 1
            wait = self.rng.expovariate(1.0) * node.speed
            self.later(wait, lambda item=item, life=node.life: self._captioned(node, item, life))  # type: ignore[misc]

    def _captioned(self, node: Node, item: WorkItem, life: int) -> None:
        core = node.core
        if not isinstance(core, Worker) or node.life != life:
            return
        shard = int(item.shard[1:])
        assert item.key == f"{shard}/{item.index}", "an item has another item's key"
        bad = (shard, item.index) in self.plan.bad or (node.liar and self.rng.random() < 0.3)
        flaky = self.storm and self.rng.random() < self.plan.flaky
        if bad or flaky:
            fault = "item" if bad else "network"
            failure = m.FailedItem.model_validate({"index": item.index, "reason": "broken", "fault": fault})
            outcome = Outcome(item.lease, item.index, failure=failure)
        else:
            captions = tuple(Caption(f"{slot} of {shard}/{item.index}") for slot in item.slots)
            outcome = Outcome(item.lease, item.index, captions, image=ImageFacts())
        self._node_effects(node, core.outcomes([outcome], self.now))
        self._feed(node)
