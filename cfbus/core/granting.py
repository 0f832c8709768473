"""Granting leases: who waits, what is carved for whom, and the listing that a GRANT carries.

Part of the broker's core. A chunk is carved first; its listing is then asked of the writer, and the GRANT is sent
when that has come. Requests stand: a worker that got WAIT is served as soon as there is something, without asking.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_RANGES
from cfbus.core.effects import Connection, Effect, LeaseRow, Note, Send
from cfbus.core.leases import LeaseState
from cfbus.core.passes import Pass
from cfbus.core.ranges import RangeSet

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.state import PeerState

ASK_AGAIN_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 1.0
"""While workers wait, how often it is looked whether a backup lease would gain now."""
LISTING_SECONDS = 5.0
MANY_CLAIMS = 10_000
"""With more accused items than this, they are tried again before anything fresh."""


class Granting:
    """Who waits for a lease, and which leases wait for their listing."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.waiting: dict[Connection, m.Lease] = {}
        self._preparing: dict[tuple[int, int], list[LeaseState]] = {}
        self._told: dict[Connection, str] = {}
        self.look_again = 0.0
        self._listing_asked = 0.0

    def request(self, known: PeerState, message: m.Lease, now: float) -> list[Effect]:
        """A worker has room."""
        known.rate = message.rate
        if not known.draining:
            self.waiting[known.peer.connection] = message
            self._told.pop(known.peer.connection, None)
        return []

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
        """Grant what can be granted to those who wait, first come first served."""
        effects: list[Effect] = []
        if not self.waiting:
            return effects
        why = self.why()
        for connection in list(self.waiting):
            state = self._broker.peers[connection]
            lease = None if why else self._carve(state, self.waiting[connection], now)
            if lease is None:
                effects += self._wait(connection, why or "nothing-free")
                continue
            self.forget(connection)
            effects.append(self._ask_for_listing(lease))
        self.look_again = now + LOOK_AGAIN_SECONDS
        return effects

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
        """Passes whose slots the configuration knows prompts for, first to last."""
        slots = {slot.name for slot in self._broker.rules.spec.slots}
        return [walk for walk in self._broker.passes.values() if slots.issuperset(walk.slots)]

    def _carve(self, state: PeerState, request: m.Lease, now: float) -> LeaseState | None:
        broker = self._broker
        passes = self.leasable()
        numbers = frozenset(walk.number for walk in passes)
        if len(broker.claims) > MANY_CLAIMS:
            again = self._carve_again(state, numbers, now)
            if again is not None:
                return again
        for walk in passes:
            taken = walk.take(self._chunk_size(walk, state, request), request.shard)
            if taken is not None:
                return self._lease(state, walk, *taken, backup=False, now=now)
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
        return self._lease(state, self._broker.passes[number], shard, index, index + 1, backup=False, now=now)

    def _carve_backup(self, state: PeerState, request: m.Lease, now: float) -> LeaseState | None:
        best = self._broker.leases.best_to_back_up(state.instance, request.rate, now)
        if best is None:
            return None
        primary, (start, end) = best
        walk = self._broker.passes[primary.row.pass_number]
        self._broker.counts.backups += 1
        return self._lease(state, walk, primary.row.shard, start, end, backup=True, now=now)

    def _chunk_size(self, walk: Pass, state: PeerState, request: m.Lease) -> int:
        """About ``lease_seconds`` of this worker's work; small and doubling until its rate is known; never more than
        a share of what is free, so that at the end of a pass nobody is left with much."""
        rules = self._broker.rules
        if request.rate > 0:
            count = int(request.rate * rules.lease_seconds)
        else:
            count = state.chunk = max(2 * state.concurrency, 2 * state.chunk, 1)
        count = min(count, -(-walk.free_items // (2 * max(len(self._broker.workers()), 1))))
        return max(1, min(count, rules.chunk_size, request.want))

    def _lease(
        self, state: PeerState, walk: Pass, shard: int, start: int, end: int, *, backup: bool, now: float
    ) -> LeaseState:
        broker = self._broker
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
            undone=RangeSet(walk.undone_in(shard, [(start, end)])),
            rate=state.rate,
            progressed=now,
            preparing=True,
        )
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
        connection = broker.routes.get(row.instance)
        worker = broker.peers.get(connection)
        gone = worker is None or worker.draining or worker.instance != row.instance
        if worker is None or gone or not (lease.current and lease.undone):
            self._undo(lease)
            return []
        if message.rows == 0:
            # Not granted again at once, or an unreadable listing would be asked for without a pause.
            self._undo(lease, again=False)
            return [Note("listing.empty", (("job", row.job),))]
        end = min(row.start + message.rows, row.end)
        if end < row.end:
            broker.free(lease, broker.leases.give_back(lease, [(end, row.end)]))
            lease.row = row = replace(row, end=end)
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
            done=walk.done_in(row.shard, row.start, row.end)[:MAX_RANGES],
            slots=walk.slots,
            backup=row.backup,
            ttl=broker.rules.lease_seconds,
            window=broker.window(),
        )
        note = Note("lease.granted", (("job", row.job), ("worker", worker.name), ("backup", row.backup)))
        broker.save(lease.row)
        return [Send(connection, grant, payload), note]

    def cancel_preparing(self) -> None:
        """The writer went away with our questions."""
        for leases in self._preparing.values():
            for lease in leases:
                self._undo(lease)
        self._preparing.clear()

    def _undo(self, lease: LeaseState, *, again: bool = True) -> None:
        """A lease that was never granted: its items go back, and its worker waits again."""
        broker = self._broker
        broker.free(lease, broker.leases.end(lease))
        broker.leases.drop(lease)
        connection = broker.routes.get(lease.row.instance)
        if again and connection in broker.peers and not broker.peers[connection].draining:
            self.waiting.setdefault(connection, m.Lease(want=max(lease.items, 1), rate=lease.rate))
