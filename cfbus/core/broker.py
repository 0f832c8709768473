"""The broker's core: who may do what now, and what follows from each message.

Sans-IO: ``handle``, ``tick`` and the like take an event and the time and return effects in order; the shell
carries them out (see ``cfbus.core.effects``). Knows nothing of sockets, files, clocks or randomness.

Invariants: nothing a peer sends raises out of here; it becomes an ERROR or a refusal, and a count. Nothing is
granted before the first catch-up with the writer. An ACK `stored` follows only from the writer's word. Everything
here can be rebuilt from the store; only leases are worth remembering.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_RANGES, PAGE_BYTES
from cfbus.bus.messages import Role
from cfbus.core.adopting import adopt
from cfbus.core.asking import Asking
from cfbus.core.blame import Claims
from cfbus.core.catchup import CatchUp
from cfbus.core.configuring import Configuring
from cfbus.core.effects import Connection, Effect, LeaseRow, Leave, Note, Peer, SaveLease, Send, Stop
from cfbus.core.feeding import Feeding
from cfbus.core.granting import Granting
from cfbus.core.history import History
from cfbus.core.joining import Joining
from cfbus.core.leases import LeaseState, LeaseTable
from cfbus.core.pages import entry_bytes, pages
from cfbus.core.passes import Pass, Shards
from cfbus.core.ranges import RangeSet
from cfbus.core.state import Counts, PeerState, Remembered, Rules, WriterState
from cfbus.core.story import Line, Story
from cfbus.core.verdicts import Verdicts

WRITER_SILENT_SECONDS = 3.0
"""A writer says COMMIT each second; when none came for this long, lease clocks stand still."""
LAST_ENDED = 500
"""So many ended leases are shown in the jobs table."""


class Broker:
    """The state of one bus."""

    def __init__(self, rules: Rules, new_id: Callable[[], str], remembered: Remembered, now: float) -> None:
        self.rules = rules
        self.new_id = new_id
        self.shards = Shards()
        self.passes: dict[int, Pass] = {}
        self.leases = LeaseTable()
        self.claims = Claims(rules.max_attempts)
        self.peers: dict[Connection, PeerState] = {}
        self.routes: dict[str, Connection] = {}
        self.writer: WriterState | None = None
        self.store_id = remembered.store_id
        self.position = remembered.position
        self.wall = 0
        self.paused = False
        self.ending = ""  # what an admin wants to be waited for: `done`, `drained`
        self.ready = False  # true from the first catch-up on: only then are leases known
        self.counts = Counts(granted=remembered.granted)
        self.last_ended: deque[tuple[LeaseRow, int]] = deque(maxlen=LAST_ENDED)
        self.captions = 0
        self.dead_letters = 0
        self.contributors: tuple[tuple[str, str, int], ...] = ()
        self._stopped_at: float | None = now
        self._unsaved: dict[str, LeaseRow] = {}
        self.history = History()
        self.story = Story()
        self.tally = m.Tally(slots=(), credits=(), contributors=0, unsealed_bytes=0)
        self.remembered = remembered.leases
        self.granting = Granting(self)
        self.verdicts = Verdicts(self)
        self.catchup = CatchUp(self)
        self.joining = Joining(self)
        self.asking = Asking(self)
        self.configuring = Configuring(self, remembered)
        self.feeding = Feeding(self)

    # ------------------------------------------------------------------ events

    def handle(self, peer: Peer, message: m.Message, payload: bytes, now: float, wall: int) -> list[Effect]:
        """A message came in. ``now`` in seconds of a clock that never jumps, ``wall`` in microseconds UTC."""
        self.wall = wall
        self._run_clocks(now)
        if type(message) not in m.MAY_SEND[peer.role]:
            return self.refuse(peer, "not-allowed", f"A {peer.role} may not send {message.TAG}.")
        if isinstance(message, m.Hello):
            return self.settle(self.joining.hello(peer, message, now), now)
        if isinstance(message, m.Enrol):
            return self.asking.enrol(peer, message)
        known = self.peers.get(peer.connection)
        if known is None or known.peer.key != peer.key:
            self.counts.notice("message.hello-first")
            return [Send(peer.connection, m.Error(code="hello-first", sentence="Introduce yourself first."))]
        known.heard = now
        if isinstance(message, m.Result):
            return self._result(known, message, payload)
        return self.settle(self._dispatch(known, message, payload, now), now)

    def _dispatch(self, known: PeerState, message: m.Message, payload: bytes, now: float) -> list[Effect]:
        match message:
            case m.Heartbeat():
                known.rate, known.in_flight = message.rate, message.in_flight
                known.unacked_bytes, known.figures = message.unacked_bytes, message
                return [Send(known.peer.connection, m.Heartbeat())]
            case m.Lease():
                return self.granting.request(known, message, now)
            case m.Renew():
                return self._renew(known, message, now)
            case m.Failed():
                return self.verdicts.failed(known, message)
            case m.Release():
                return self._release(known, message, now)
            case m.Drain():
                known.draining = True
                self.granting.forget(known.peer.connection)
                return []
            case m.Bye():
                return self.joining.leave(known, now)
            case m.Admin():
                return self.asking.admin(known, message, now)
            case m.Allowed():
                return self.feeding.allowed(known, message, now)
            case _:
                return self._answers(known, message, payload, now)

    def _answers(self, known: PeerState, message: m.Message, payload: bytes, now: float) -> list[Effect]:
        if isinstance(message, m.Applied):
            return self.configuring.applied(known, message, now)
        if isinstance(message, m.Undrain):
            known.draining = False
            return []
        return self._from_writer(known, message, payload, now)

    def _from_writer(self, known: PeerState, message: m.Message, payload: bytes, now: float) -> list[Effect]:
        if self.writer is None or self.writer.connection != known.peer.connection:
            return self.refuse(known.peer, "not-the-writer", "Another writer serves this bus now.", fatal=True)
        self.writer.heard = now
        match message:
            case m.Commit():
                return self.catchup.commit(self.writer, message, now)
            case m.State():
                return self.catchup.state(self.writer, message, payload, now)
            case m.Listed():
                return self.granting.listed(message, payload, now)
            case m.Tally():
                return self.catchup.counted(message)
            case m.Done():
                return self.catchup.task_done(message)
            case _:
                return []

    def tick(self, now: float, wall: int) -> list[Effect]:
        """Time has passed."""
        self.wall = wall
        self._run_clocks(now)
        effects = self.joining.lose_silent(now)
        self._run_clocks(now)
        effects += [*self.granting.ask_listing_again(now), *self.catchup.ask_again(now), *self.feeding.tick(now)]
        effects += self.configuring.tick(now)
        if self._stopped_at is None:
            for lease in self.leases.expired(now):
                self.counts.notice("lease.expired")
                facts = (("job", lease.row.job), ("contributor", lease.row.contributor))
                effects.append(Note("lease.expired", facts))
                self.tell(lease.row, lease.row.start, lease.row.end, "lease expired")
                self.end_lease(lease)
        if self.ready:  # what was done before is no speed of ours
            self.history.sample(now, self.done_items)
        return self.settle(effects, now)

    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do, at the latest."""
        times = [state.heard + self.joining.silence for state in self.peers.values()]
        times += [*self.granting.deadlines(), *self.catchup.deadlines(), *self.feeding.deadlines()]
        times += self.configuring.deadlines()
        lease = self.leases.next_deadline()
        if lease is not None and self._stopped_at is None:
            times.append(lease)
        if self.granting.waiting and self._stopped_at is None:
            times.append(self.granting.look_again)
        return min(times, default=None)

    # ------------------------------------------------------------------ peers

    def owns(self, state: PeerState, lease: LeaseState) -> bool:
        """The lease was given to this contributor's instance."""
        return lease.row.contributor == state.peer.contributor and lease.row.instance == state.instance

    def workers(self) -> list[PeerState]:
        """The workers on the bus that take work."""
        return [s for s in self.peers.values() if s.peer.role is Role.WORKER and not s.draining]

    def window(self) -> int:
        """How many unacked bytes each worker may hold."""
        room = self.writer.room if self.writer else 0
        return max(room // max(len(self.workers()), 1), m.MAX_FRAME_BYTES)

    def lost(self, connection: Connection, now: float) -> list[Effect]:
        """The connection was cut, for good: whoever was there has left, and its leases return at once."""
        self._run_clocks(now)
        known = self.peers.get(connection)
        return self.settle(self.joining.leave(known, now), now) if known is not None else []

    # ------------------------------------------------------------------ leases and results

    def _result(self, known: PeerState, message: m.Result, payload: bytes) -> list[Effect]:
        if not self.ready:
            self.counts.dropped_without_writer += 1
            return []
        if self._is_complete(known, message):
            self.counts.duplicates += 1
            return [self._ack(known, message, "duplicate", "")]
        lease = self.leases.get(message.lease)
        problem = self._result_problem(known, lease, message, payload)
        if problem or lease is None:
            self.counts.refuse_result(problem.replace(" ", "-"))
            return [self._ack(known, message, "refused", problem), Note("result.refused", (("why", problem),))]
        self.routes[message.instance] = known.peer.connection
        row = lease.row
        if not self.passes[row.pass_number].undone_in(row.shard, message.ranges):
            self.counts.duplicates += 1
            return [self._ack(known, message, "duplicate", "")]
        if self.writer is None:
            # The worker keeps it and sends it again; nobody else has to remember.
            self.counts.dropped_without_writer += 1
            return []
        origin = m.Origin(
            contributor=known.peer.contributor,
            key=known.peer.key,
            job=row.job,
            pass_number=row.pass_number,
            shard=row.shard,
            received=self.wall,
        )
        return [Send(self.writer.connection, message.model_copy(update={"origin": origin}), payload)]

    def _is_complete(self, known: PeerState, message: m.Result) -> bool:
        """The result is of a lease of this worker whose shard is complete: its ACK was lost, or it came too late."""
        row = self.leases.complete(message.lease)
        if row is None or (row.contributor, row.instance) != (known.peer.contributor, message.instance):
            return False
        return not self.passes[row.pass_number].undone_in(row.shard, message.ranges)

    def _result_problem(self, known: PeerState, lease: LeaseState | None, message: m.Result, payload: bytes) -> str:
        if lease is None or lease.row.contributor != known.peer.contributor or lease.row.instance != message.instance:
            return "no such lease of yours"
        if message.ranges[0][0] < lease.row.start or message.ranges[-1][1] > lease.row.end:
            return "items outside the lease"
        if message.origin is not None or message.table != "captions":
            return "only the broker may say so"
        if len(payload) != message.size:
            return "the payload is not as long as the header says"
        return ""

    def _ack(self, known: PeerState, message: m.Result, status: str, reason: str) -> Send:
        acked = m.Acked.model_validate(
            {"instance": message.instance, "number": message.number, "status": status, "reason": reason}
        )
        return Send(known.peer.connection, m.Ack(results=(acked,), window=self.window()))

    def _renew(self, known: PeerState, message: m.Renew, now: float) -> list[Effect]:
        known.rate, known.unacked_bytes = message.rate, message.unacked_bytes
        if not self.ready:
            return []
        states, told = [], []
        for held in message.leases:
            lease = self.leases.get(held.lease)
            if lease is None or not self.owns(known, lease) or not lease.current:
                states.append(m.LeaseState(lease=held.lease, current=False, ttl=0.0))
                continue
            lease.rate = message.rate
            captioned = min(held.captioned, lease.items)
            if captioned > lease.captioned:
                lease.captioned, lease.progressed = captioned, now
            told.append(lease)
        self.leases.prolong(known.instance, now, self.rules.lease_seconds)
        states += [self.lease_state(lease, now) for lease in told]
        window = self.window()
        fed = [effect for lease in told for effect in self.feeding.renew(lease, known, now)]
        return fed + [
            Send(known.peer.connection, m.Renewed(leases=tuple(page), window=window))
            for page in pages(states, lambda state: entry_bytes(state.done), PAGE_BYTES)
        ]

    def lease_state(self, lease: LeaseState, now: float) -> m.LeaseState:
        """What a holder is told of its lease."""
        row = lease.row
        done = lease.undone.missing(row.start, row.end)
        ttl = max(lease.deadline - now, 0.0)
        return m.LeaseState(lease=row.lease, current=lease.current, ttl=ttl, done=done[:MAX_RANGES])

    def _release(self, known: PeerState, message: m.Release, now: float) -> list[Effect]:
        lease = self.leases.get(message.lease)
        if lease is None or not lease.current or not self.owns(known, lease):
            return []
        effects = self.feeding.unreachable(known, lease, now) if message.why else []
        back = message.ranges or ((lease.row.start, lease.row.end),)
        self.free(lease, self.leases.give_back(lease, back))
        if not lease.undone:
            self.end_lease(lease)
        return effects

    def end_lease(self, lease: LeaseState) -> None:
        """The lease runs no more; what nobody else covers is free again."""
        if lease.current:
            self.counts.ended += 1
            self.free(lease, self.leases.end(lease))
            if not lease.preparing:
                lease.row = replace(lease.row, current=False)
                self.save(lease.row)
                self.last_ended.append((lease.row, self.wall))

    def save(self, row: LeaseRow) -> None:
        """The ledger should keep the lease as it is now, before anything that follows from it is sent."""
        self._unsaved[row.lease] = row
        self.tell(row, row.start, row.end, "leased" if row.current else "lease ended")

    def tell(self, row: LeaseRow, start: int, end: int, what: str) -> None:
        """For the story of a shard."""
        holder = self.peers.get(self.routes.get(row.instance))
        worker = holder.name if holder is not None else ""
        line = Line(self.wall, row.pass_number, start, end, what, worker, row.contributor, row.job)
        self.story.tell(row.shard, line)

    def free(self, lease: LeaseState, pairs: Iterable[tuple[int, int]]) -> None:
        """These items of the lease have no holder: free, or, if they were accused, waiting to be tried again."""
        row = lease.row
        items = RangeSet(pairs)
        for index in self.claims.accused(row.pass_number, row.shard):
            if index in items:
                self.claims.put_back((row.pass_number, row.shard, index), row.contributor)
                items.remove(index, index + 1)
        self.passes[row.pass_number].release(row.shard, items)

    # ------------------------------------------------------------------ the rest

    def refuse(self, peer: Peer, code: str, sentence: str, *, fatal: bool = False) -> list[Effect]:
        """An ERROR, and a count."""
        self.counts.refused_messages[code] = self.counts.refused_messages.get(code, 0) + 1
        note = Note("message.refused", (("code", code), ("contributor", peer.contributor), ("why", sentence)))
        return [Send(peer.connection, m.Error(code=code, sentence=sentence, fatal=fatal)), note]

    def settle(self, effects: list[Effect], now: float) -> list[Effect]:
        """What follows from each event: leases to save first, then what was decided, then what can be granted now."""
        if any(isinstance(effect, Stop) for effect in effects):
            return effects
        self._run_clocks(now)
        adopt(self, now)
        effects += [*self.catchup.ask_for_work(now), *self.granting.serve(now), *self.feeding.settle()]
        saves = [SaveLease(row) for row in self._unsaved.values()]
        self._unsaved.clear()
        return [*self.configuring.unsaved(), *saves, *effects, *self._leave()]

    def _leave(self) -> list[Effect]:
        done = self.ending == "done" and self.finished and self.catchup.sealed
        drained = self.ending == "drained" and not self.leases.current()
        return [Leave()] if done or drained else []

    def _run_clocks(self, now: float) -> None:
        """Lease clocks stand still while nothing can become durable: from when the writer was last heard."""
        writer = self.writer
        flowing = writer is not None and writer.caught_up and writer.state == "open"
        if writer is not None and now - writer.heard > WRITER_SILENT_SECONDS:
            flowing = False
        if flowing and self._stopped_at is not None:
            self.leases.postpone(now - self._stopped_at)
            self._stopped_at = None
        elif not flowing and self._stopped_at is None:
            self._stopped_at = writer.heard if writer is not None else now

    @property
    def done_items(self) -> int:
        """Items done, over all passes."""
        return sum(walk.done_items for walk in self.passes.values())

    @property
    def finished(self) -> bool:
        """Everything that is listed is done, and everything is listed."""
        caught_up = self.writer is not None and self.writer.caught_up
        complete = bool(self.passes) and all(walk.complete for walk in self.passes.values())
        return caught_up and self.catchup.scanned and complete and not self.catchup.missing_slots

    def check(self) -> None:
        """Assert the invariants."""
        self.leases.check()
        self.feeding.check()
        for walk in self.passes.values():
            walk.check()
