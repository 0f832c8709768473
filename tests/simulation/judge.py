"""What must be true at every step of a simulated run, judged from outside: from what was sent, heard and stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.disk import Place
from simulation.network import Node

from cfbus.bus import messages as m
from cfbus.bus.wire import decode_table
from cfbus.core import effects as e
from cfbus.core.frame import JournalFrame
from cfbus.core.worker import Worker

if TYPE_CHECKING:
    from simulation.world import World

Leases = tuple[dict[str, tuple[tuple[int, int], ...]], int, int]
CHECK_EVERY = 24
SILENCE_SLACK = 3.5
"""So long a stalled writer may go unnoticed."""
CALM_SLACK = 25.0
IN_FLIGHT_BYTES = 16 * 64 * 1024 + (1 << 18)


@dataclass
class Given:
    """A lease, as its GRANT said."""

    grant: m.Grant
    contributor: str
    instance: str
    captioned: int
    moved: float  # when the broker last heard of progress, with a standing clock while the writer stalls


class Judge:
    """Watches a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._given: dict[str, Given] = {}
        self._moved: dict[str, float] = {}  # when an instance last told of progress with anything
        self._sent: dict[tuple[str, int], list[Place]] = {}
        self._forged: set[tuple[str, int]] = set()
        self._steps = 0
        self._stalled = 0.0
        self._stall_began: float | None = None
        self.caught_up = False
        self.acked: set[Place] = set()

    # ------------------------------------------------------------------ clocks

    @property
    def flowing(self) -> float:
        """The time, without that in which the writer stalled."""
        now = self._world.now
        return now - self._stalled - (now - self._stall_began if self._stall_began is not None else 0.0)

    def writer_stalls(self, stalled: bool) -> None:
        """The writer stops or goes on."""
        if stalled and self._stall_began is None:
            self._stall_began = self._world.now
        elif not stalled and self._stall_began is not None:
            self._stalled += self._world.now - self._stall_began
            self._stall_began = None

    @property
    def ways(self) -> dict[str, m.Way]:
        """Where each lease was said to be read, if at a feeder's."""
        return {lease: given.grant.feeder for lease, given in self._given.items() if given.grant.feeder is not None}

    def broker_started(self) -> None:
        """A new broker knows nothing; remembered leases have a full time to live."""
        self.caught_up = False

    # ------------------------------------------------------------------ leases

    def granted(self, node: Node, grant: m.Grant) -> None:
        """A GRANT is sent."""
        world = self._world
        row = world.ledger.leases.get(grant.lease)
        assert row is not None, f"{grant.lease} is granted and not in the ledger"
        assert row.current, f"{grant.lease} is granted and over"
        assert (row.start, row.end) == (grant.start, grant.end)
        assert self.caught_up, "a lease is granted before the first catch-up"
        walk = world.broker.passes[grant.pass_number] if world.broker is not None else None
        assert walk is None or not walk.closed, "a lease of a closed redo is granted"
        assert isinstance(node.core, Worker) or node.core is None
        self._given[grant.lease] = Given(grant, row.contributor, row.instance, 0, self.flowing)
        world.check()

    def expired(self, job: str) -> None:
        """The broker ended a lease because its time was over."""
        world = self._world
        lease = next((lease for lease, row in world.ledger.leases.items() if row.job == job), None)
        assert lease is not None, f"{job} runs out and was never granted"
        given = self._given.get(lease)
        world.seen["lease expired"] += 1
        if given is None:
            return  # its broker crashed between the ledger and the GRANT
        idle = self.flowing - given.moved
        assert idle >= world.plan.lease_seconds - SILENCE_SLACK, f"{job} expired after {idle:.1f} s without progress"

    def moved(self, lease: str, captioned: int) -> None:
        """The broker heard a RENEW."""
        given = self._given.get(lease)
        if given is not None and captioned > given.captioned:
            given.captioned, given.moved = captioned, self.flowing
            self._moved[given.instance] = self.flowing

    def check_calm(self) -> None:
        """When nothing is in the way any more, a lease without progress does not last."""
        world = self._world
        if world.broker is None or world.now < world.calm_since + CALM_SLACK + world.plan.lease_seconds:
            return
        for lease in world.broker.leases.current():
            given = self._given.get(lease.row.lease)
            if given is not None and not lease.preparing:
                # What waits in line on its worker goes on with what is before it.
                moved = max(given.moved, self._moved.get(given.instance, 0.0))
                idle = self.flowing - max(moved, world.calm_since, world.broker_since)
                assert idle <= world.plan.lease_seconds + CALM_SLACK, (
                    f"{lease.row.job} stands still for {idle:.1f} s and does not end; it may until {lease.deadline:.1f}"
                )

    # ------------------------------------------------------------------ messages

    def may_change(self, node: Node, message: m.Message) -> bool:
        """What this peer says of this lease may change anything: it holds it."""
        broker = self._world.broker
        assert broker is not None
        if not isinstance(message, m.Failed | m.Release):
            return True
        lease = broker.leases.get(message.lease)
        holder = self._given.get(message.lease)
        if lease is None or holder is None:
            return True
        return lease.current and holder.contributor == node.contributor

    def leases(self) -> Leases:
        """What the current leases still have to do, how many items are held, how many are accused."""
        broker = self._world.broker
        assert broker is not None
        undone = {lease.row.lease: lease.undone.pairs() for lease in broker.leases.current()}
        return undone, sum(walk.held_items for walk in broker.passes.values()), len(broker.claims)

    def nothing_changed(self, before: Leases, message: m.Message) -> None:
        """What was said by somebody who may not say it had no effect (new leases may come of time passing)."""
        after = self.leases()
        self._world.seen[f"changed nothing: {message.TAG}"] += 1
        same = all(after[0].get(lease) == undone for lease, undone in before[0].items())
        assert same, f"{message} changed a lease"
        assert after[1] >= before[1], f"{message} freed items"
        assert after[2] <= before[2], f"{message} accused an item"

    def sent(self, message: m.Message, *, forged: bool = False) -> None:
        """A worker sends."""
        if not isinstance(message, m.Result):
            return
        if forged:
            self._forged.add((message.instance, message.number))
        given = self._given.get(message.lease)
        if given is not None:
            number, shard = given.grant.pass_number, given.grant.shard
            indices = [index for start, end in message.ranges for index in range(start, end)]
            self._sent[message.instance, message.number] = [(number, shard, index) for index in indices]

    def frame(self, frame: JournalFrame) -> None:
        """The writer stores a frame."""
        given = self._given.get(frame.lease)
        assert given is not None, "a result of a lease that never was is stored"
        assert given.contributor == frame.contributor, "a result of another's lease is stored"
        assert (given.grant.pass_number, given.grant.shard) == (frame.pass_number, frame.shard)
        assert given.grant.start <= frame.ranges[0][0], "items before the lease are stored"
        assert frame.ranges[-1][1] <= given.grant.end, "items after the lease are stored"
        if frame.table == "captions":
            self._world.reloads.labelled(decode_table(frame.table, frame.frame).constants)
        broker = self._world.broker
        lease = broker.leases.get(frame.lease) if broker is not None else None
        if lease is not None and not lease.current and frame.table == "captions":
            self._world.seen["late result of an ended lease"] += 1

    def acked_by(self, acked: m.Acked) -> None:
        """What a worker is told must be true."""
        world = self._world
        world.seen[f"ack: {acked.status}"] += 1
        key = (acked.instance, acked.number)
        if acked.status == "refused":
            # Right of a forgery, of a lease that went with the ledger, and of one that was forgotten with its shard.
            stored = all(place in world.disk.items for place in self._sent.get(key, ()))
            assert key in self._forged or stored or world.seen["ledger lost"], f"refused: {acked.reason}"
            return
        assert not (acked.status == "stored" and key in self._forged), f"a forged result was stored: {key}"
        for place in self._sent.get(key, ()):
            if acked.status == "duplicate" and place not in world.disk.items and not world.disk.wants(place):
                world.seen["ack: not wanted any more"] += 1
                continue
            assert place in world.disk.items, f"{place} was acked and is not on the disk"
            self.acked.add(place)

    # ------------------------------------------------------------------ steps and the end

    def step(self) -> None:
        """After every event."""
        self._steps += 1
        if self._steps % CHECK_EVERY == 0:
            self._world.check()
            self.check_calm()

    def window(self, node: Node, core: Worker) -> None:
        """Unacked bytes stay within the window, but for what was in flight when it closed."""
        if core.unacked_bytes >= node.window:
            self._world.seen["window closed"] += 1
        assert core.unacked or not core.unacked_bytes, "nothing is unacked and the window is not whole"
        assert core.unacked_bytes <= node.widest + IN_FLIGHT_BYTES, "more is unacked than the window allows"

    def end(self) -> None:
        """Everything is done, and nothing else."""
        world = self._world
        missing = [place for place in world.places() if place not in world.disk.items]
        assert not missing, f"never done: {missing[:5]} of {len(missing)}"
        assert len(world.disk.items) == sum(1 for _ in world.places())
        assert {slot for slots in world.disk.passes for slot in slots} == world.reloads.ever
        assert self.acked <= world.disk.items
        for node in world.workers:
            assert not isinstance(node.core, Worker) or node.core.unacked == 0, f"{node.name} has unacked results"
        if not any(node.liar for node in world.workers) and not world.plan.flaky:
            assert {place[1:] for place in world.disk.dead} <= world.plan.bad, "a good item was given up"
        stored = {place[1:] for place in world.disk.items if place not in world.disk.dead}
        assert not stored & world.plan.bad

    def event(self, note: e.Note) -> None:
        """Something was noted."""
        facts = dict(note.facts)
        if note.event == "lease.granted" and facts["backup"]:
            self._world.seen["backup granted"] += 1
        if note.event == "lease.expired":
            self.expired(str(facts["job"]))
