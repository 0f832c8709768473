"""Granting leases: who waits, what is carved for whom, and the listing that a GRANT carries.

Part of the broker's core. A chunk is carved first; its listing is then asked of the writer, and the GRANT is sent
when that has come. Requests stand: a worker that got WAIT is served as soon as there is something, without asking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_RANGES
from cfbus.core.effects import Connection, Effect, LeaseRow, Note, Send
from cfbus.core.helping import Plan
from cfbus.core.leases import LeaseState
from cfbus.core.passes import Pass
from cfbus.core.ranges import Pair, RangeSet

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.state import PeerState

ASK_AGAIN_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 1.0
"""While workers wait, how often it is looked whether a backup lease would gain now."""
PLAN_SECONDS = 0.25
PACE_SECONDS = 1.0
"""So long a plan for backups, and what is known of everybody's speed, are used again."""
LISTING_SECONDS = 5.0
TOO_MANY = "too-many-leases"
"""Why a worker waits whose key has as many leases as one key may have."""
MANY_CLAIMS = 10_000
"""With more accused items than this, they are tried again before anything fresh."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast all workers are together, and how many there are."""

    rate: float
    workers: int
    at: float


class Granting:
    """Who waits for a lease, and which leases wait for their listing."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.waiting: dict[Connection, m.Lease] = {}
        self._preparing: dict[tuple[int, int], list[LeaseState]] = {}
        self._told: dict[Connection, str] = {}
        self.look_again = 0.0
        self._listing_asked = 0.0
        self._new: set[Connection] = set()  # who asked since it was last looked what there is
        self._why = ""
        self._room = 0
        self._plan: Plan | None = None
        self._cut: list[Effect] = []
        self._pace = Pace(0.0, 0, -PACE_SECONDS)

    def request(self, known: PeerState, message: m.Lease, now: float) -> list[Effect]:
        """A worker has room."""
        known.rate = message.rate
        if not known.draining:
            self._wants(known.peer.connection, message)
            self._told.pop(known.peer.connection, None)
        return []

    def _wants(self, connection: Connection, message: m.Lease) -> None:
        self.waiting[connection] = message
        self._new.add(connection)

    def forget(self, connection: Connection) -> None:
        """The worker wants nothing any more."""
        self.waiting.pop(connection, None)
        self._told.pop(connection, None)

    def why(self) -> str:
        """What keeps items from being leased, if anything does."""
        broker = self._broker
        if broker.writer is None:
            return "writer-away"
        if not broker.writer.caught_up:
            return "catching-up"
        if broker.writer.state != "open":
            return f"writer-{broker.writer.state}"
        if broker.paused:
            return "paused"
        if broker.finished:
            return "finished"
        if not broker.passes:
            return "no-pass-yet"
        if all(walk.complete for walk in self.leasable()) and broker.catchup.scanned:
            return "slots-without-prompt"
        return ""

    def serve(self, now: float) -> list[Effect]:
        """Grant what can be granted to those who wait."""
        effects: list[Effect] = []
        if not self.waiting:
            return effects
        broker = self._broker
        why = self.why()
        for connection in self._whose_turn(why, now):
            state = broker.peers[connection]
            keeps = why or self._too_many(state) or broker.feeding.why_not(state, now)
            lease = None if keeps else self._carve(state, self.waiting[connection], now)
            if lease is None:
                effects += self._wait(connection, keeps or "nothing-free")
                continue
            self.forget(connection)
            effects.append(self._ask_for_listing(lease))
        effects += self._cut
        self._cut = []
        return effects

    def _whose_turn(self, why: str, now: float) -> list[Connection]:
        """Who asked just now; all, the fastest first, when there may be something for those who wait already."""
        broker = self._broker
        room = sum(walk.free_items for walk in broker.passes.values()) + len(broker.claims)
        everyone = why != self._why or room > self._room or now >= self.look_again
        new, self._new = self._new, set()
        self._why, self._room = why, room
        if not everyone:
            return [connection for connection in new if connection in self.waiting]
        self.look_again = now + LOOK_AGAIN_SECONDS
        return sorted(self.waiting, key=lambda connection: -self.waiting[connection].rate)

    def _too_many(self, state: PeerState) -> str:
        if self._broker.leases.held_by(state.peer.key) < self._broker.rules.leases_per_key:
            return ""
        if self._told.get(state.peer.connection) != TOO_MANY:
            self._broker.counts.notice("limit.leases")
        return TOO_MANY

    def _wait(self, connection: Connection, reason: str) -> list[Effect]:
        if self._told.get(connection) == reason:
            return []
        self._told[connection] = reason
        return [Send(connection, m.Wait(reason=reason, ask_again=ASK_AGAIN_SECONDS))]

    def ask_listing_again(self, now: float) -> list[Effect]:
        """A listing that did not come for a while may have been lost on the way."""
        broker = self._broker
        if broker.writer is None or not self._preparing or now - self._listing_asked < LISTING_SECONDS:
            return []
        self._listing_asked = now
        rows = [lease.row for leases in self._preparing.values() for lease in leases]
        to = broker.writer.connection
        return [Send(to, m.IndexShard(shard=row.shard, start=row.start, end=row.end)) for row in rows]

    def deadlines(self) -> list[float]:
        """When to ask again."""
        return [self._listing_asked + LISTING_SECONDS] if self._preparing and self._broker.writer else []

    def _ask_for_listing(self, lease: LeaseState) -> Effect:
        row = lease.row
        self._preparing.setdefault((row.shard, row.start), []).append(lease)
        assert self._broker.writer is not None
        return Send(self._broker.writer.connection, m.IndexShard(shard=row.shard, start=row.start, end=row.end))

    # ------------------------------------------------------------------ carving

    def leasable(self) -> list[Pass]:
        """Passes that are not closed and whose slots the configuration knows prompts for: redos, for which somebody
        asked, before the others, and the first before the last."""
        slots = {slot.name for slot in self._broker.rules.spec.slots}
        known = [walk for walk in self._broker.passes.values() if slots.issuperset(walk.slots) and not walk.closed]
        return sorted(known, key=lambda walk: (not walk.is_redo, walk.number))

    def _carve(self, state: PeerState, request: m.Lease, now: float) -> LeaseState | None:
        broker = self._broker
        passes = self.leasable()
        numbers = frozenset(walk.number for walk in passes)
        if len(broker.claims) > MANY_CLAIMS:
            again = self._carve_again(state, numbers, now)
            if again is not None:
                return again
        for walk in passes:
            if not walk.free_items:
                continue
            count = self._chunk_size(walk, state, request, now)
            taken = walk.take(count, request.shard) if count else None
            if taken is not None:
                state.chunk = count
                return self._lease(state, walk, *taken, backup=False, now=now)
            if not count:
                return None
        again = self._carve_again(state, numbers, now)
        return again or self._carve_backup(state, request, now)

    def _contributors_at_work(self) -> frozenset[str]:
        """Who could try an item that others failed on."""
        broker = self._broker
        waiting = {broker.peers[connection].peer.contributor for connection in self.waiting}
        return frozenset(waiting | {lease.row.contributor for lease in broker.leases.current()})

    def _carve_again(self, state: PeerState, passes: frozenset[int], now: float) -> LeaseState | None:
        place = self._broker.claims.next_for(state.peer.contributor, passes, self._contributors_at_work())
        if place is None:
            return None
        number, shard, index = place
        return self._lease(state, self._broker.passes[number], shard, ((index, index + 1),), backup=False, now=now)

    def _carve_backup(self, state: PeerState, request: m.Lease, now: float) -> LeaseState | None:
        broker = self._broker
        if self._plan is None or now - self._plan.made > PLAN_SECONDS:
            self._plan = Plan(broker.leases, now, lambda instance: instance not in broker.routes)
        busy, most = self._room_of(state, request, now)
        best = self._plan.part_for(state.instance, request.rate, busy, most) if most else None
        if best is None:
            return None
        helped, pairs = best
        row = helped.row
        if row.backup:
            self._take_from(helped, pairs, now)
        broker.counts.backups += 1
        return self._lease(state, broker.passes[row.pass_number], row.shard, pairs, backup=True, now=now)

    def _take_from(self, backup: LeaseState, pairs: tuple[Pair, ...], now: float) -> None:
        """A backup's far end goes to somebody who has it done sooner; its holder is told to skip it."""
        broker = self._broker
        broker.leases.give_back(backup, pairs)
        if not backup.undone:
            broker.end_lease(backup)
        if backup.connection is not None:
            state = broker.lease_state(backup, now)
            self._cut.append(Send(backup.connection, m.Renewed(leases=(state,), window=broker.window())))

    def _room_of(self, state: PeerState, request: m.Lease, now: float) -> tuple[int, int]:
        """How many items a worker has still to caption, and how many more it may have: half of what it could do until
        the end if all ended together, when it has less than the other half, or its engine too little."""
        busy = self._broker.leases.outstanding(state.instance)
        share = request.rate * self._seconds_left(now)
        if share <= 0:
            return busy, min(max(state.concurrency, 1), request.want)
        if busy and busy >= min(share, max(share / 2, state.concurrency)):
            return busy, 0
        return busy, max(1, min(int(share / 2 + 1), request.want))

    def _seconds_left(self, now: float) -> float:
        """How long all workers together need for all that is not done, if they go on as they do; 0 if nobody knows."""
        broker = self._broker
        if now - self._pace.at >= PACE_SECONDS:
            rates = [worker.rate for worker in broker.workers()]
            self._pace = Pace(sum(rates), len(rates), now)
        undone = sum(walk.items - walk.done_items for walk in self.leasable())
        return undone / self._pace.rate if self._pace.rate > 0 else 0.0

    def _chunk_size(self, walk: Pass, state: PeerState, request: m.Lease, now: float) -> int:
        """About ``lease_seconds`` of this worker's work; small and doubling until its rate is known. Never more than
        half of what it could do until the end if all ended together, and never so much that it had more than all of
        that: so at the end nobody is left with much. Who has nothing gets something."""
        rules = self._broker.rules
        if request.rate > 0:
            count = max(1, int(request.rate * rules.lease_seconds))
            return min(count, self._room_of(state, request, now)[1], rules.chunk_size)
        count = max(2 * state.concurrency, 2 * state.chunk, 1)
        count = min(count, -(-walk.free_items // (2 * max(self._pace.workers, 1))))
        return max(1, min(count, rules.chunk_size, request.want))

    def _lease(
        self, state: PeerState, walk: Pass, shard: int, pairs: tuple[Pair, ...], *, backup: bool, now: float
    ) -> LeaseState:
        broker = self._broker
        start, end = pairs[0][0], pairs[-1][1]
        broker.counts.granted += 1
        row = LeaseRow(
            lease=broker.new_id(),
            job=f"{broker.shards.names[shard]}:{start}-{end}@{walk.number}.{broker.counts.granted}",
            pass_number=walk.number,
            shard=shard,
            start=start,
            end=end,
            contributor=state.peer.contributor,
            key=state.peer.key,
            instance=state.instance,
            backup=backup,
            current=True,
        )
        lease = LeaseState(
            row=row,
            connection=state.peer.connection,
            deadline=now + broker.rules.lease_seconds,
            granted=now,
            undone=RangeSet(walk.undone_in(shard, pairs)),
            rate=state.rate,
            concurrency=state.concurrency,
            progressed=now,
            preparing=True,
        )
        lease.skipped = lease.items - len(lease.undone)
        broker.leases.add(lease)
        return lease

    # ------------------------------------------------------------------ the listing has come

    def listed(self, message: m.Listed, payload: bytes, now: float) -> list[Effect]:
        """The writer sent the listing of a chunk: its lease is granted, cut to what fits a frame."""
        waiting = self._preparing.pop((message.shard, message.start), [])
        effects: list[Effect] = []
        for lease in waiting:
            effects += self._grant(lease, message, payload, now)
        return effects

    def _grant(self, lease: LeaseState, message: m.Listed, payload: bytes, now: float) -> list[Effect]:
        broker, row = self._broker, lease.row
        worker = self._holder(lease)
        if worker is None:
            self.undo(lease)
            return []
        if message.rows == 0:
            # Not granted again at once, or an unreadable listing would be asked for without a pause.
            self.undo(lease, again=False)
            return [Note("listing.empty", (("job", row.job),))]
        end = min(row.start + message.rows, row.end)
        if end < row.end:
            broker.free(lease, broker.leases.give_back(lease, [(end, row.end)]))
            lease.row = replace(row, end=end)
            lease.skipped = end - row.start - len(lease.undone)
        if not broker.feeding.needs(worker):
            return self.grant_now(lease, payload, now, None)
        asked = broker.feeding.keep(lease, worker, payload, now)
        if asked is None:
            self.undo(lease)
            return []
        return asked

    def grant_now(self, lease: LeaseState, payload: bytes, now: float, way: m.Way | None) -> list[Effect]:
        """Nothing is in the way any more, unless the worker has left meanwhile. The images are read at ``way``."""
        broker, row = self._broker, lease.row
        worker = self._holder(lease)
        if worker is None:
            self.undo(lease)
            return []
        connection = worker.peer.connection
        lease.preparing, lease.connection = False, connection
        lease.granted = lease.progressed = now
        lease.deadline = now + broker.rules.lease_seconds
        walk = broker.passes[row.pass_number]
        grant = m.Grant(
            lease=row.lease,
            pass_number=row.pass_number,
            shard=row.shard,
            shard_name=broker.shards.names[row.shard],
            start=row.start,
            end=row.end,
            done=lease.undone.missing(row.start, row.end)[:MAX_RANGES],
            slots=walk.slots,
            overrides=walk.overrides,
            backup=row.backup,
            ttl=broker.rules.lease_seconds,
            window=broker.window(),
            feeder=way,
        )
        note = Note("lease.granted", (("job", row.job), ("worker", worker.name), ("backup", row.backup)))
        broker.save(lease.row)
        return [Send(connection, grant, payload), note]

    def _holder(self, lease: LeaseState) -> PeerState | None:
        """The worker that should get this lease, if it is there and there is anything in it still."""
        worker = self._broker.peers.get(self._broker.routes.get(lease.row.instance))
        gone = worker is None or worker.draining or worker.instance != lease.row.instance
        return None if gone or not (lease.current and lease.undone) else worker

    def cancel_preparing(self) -> None:
        """The writer went away with our questions."""
        for leases in self._preparing.values():
            for lease in leases:
                self.undo(lease)
        self._preparing.clear()

    def undo(self, lease: LeaseState, *, again: bool = True) -> None:
        """A lease that was never granted: its items go back, and its worker waits again."""
        broker = self._broker
        broker.free(lease, broker.leases.end(lease))
        broker.leases.drop(lease)
        connection = broker.routes.get(lease.row.instance)
        if again and connection in broker.peers and not broker.peers[connection].draining:
            self._wants(connection, self.waiting.get(connection, m.Lease(want=max(lease.items, 1), rate=lease.rate)))
