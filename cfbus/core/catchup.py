"""Following the writer: its state at HELLO, its COMMITs after that, and the work asked of it.

Part of the broker's core. The store is the only truth; what is kept here is a picture of it. Positions have no gaps:
a COMMIT that does not follow on the one before means that one was lost, and the whole state is asked for again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.messages import Role
from cfbus.bus.wire import WireError, decode_table
from cfbus.core.effects import Connection, DropLeases, Effect, Note, SavePosition, Send, Stop
from cfbus.core.passes import Pass
from cfbus.core.ranges import Pair, RangeSet
from cfbus.core.records import contributors, jobs
from cfbus.core.state import WriterState
from cfbus.core.story import Line

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.state import PeerState

RECORDS = ("jobs", "contributors")
RECORDS_SECONDS = 60.0
"""While something goes on, the tables that show it from outside are written so often."""
ASK_AGAIN_SECONDS = 10.0


@dataclass(slots=True)
class _Coming:
    """A redo, and as much of what it is over as has come: so many items, by shard."""

    facts: m.PassFacts
    selected: dict[int, RangeSet] = field(default_factory=dict)
    items: int = 0


class CatchUp:
    """The broker's picture of the store, and the tasks that it has given to the writer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._tasks: dict[str, m.Task] = {}
        self._coming: dict[int, _Coming] = {}  # redos, as long as not all is there
        self._asked_at = 0.0
        self._writer_instance = ""
        self._payloads: dict[str, bytes] = {}
        self._sealing_at = -1
        self._sealed_at = -1
        self._recorded_at = 0.0
        self._recorded = -1
        self.scanned = False
        self.problem = ""

    @property
    def sealed(self) -> bool:
        """All that is durable is in segments."""
        return self._sealed_at >= self._broker.position

    @property
    def missing_slots(self) -> tuple[str, ...]:
        """Slots of the configuration that no pass has yet."""
        covered = {slot for walk in self._broker.passes.values() if not walk.is_redo for slot in walk.slots}
        return tuple(slot.name for slot in self._broker.rules.spec.slots if slot.name not in covered)

    @property
    def opening(self) -> tuple[str, ...]:
        """Slots for which the writer was asked to open a pass, or may open a redo, and has not said that it did."""
        kinds = ("open-pass", "amend")
        return tuple(slot for task in self._tasks.values() if task.kind in kinds for slot in task.slots)

    def counted(self, message: m.Tally) -> list[Effect]:
        """What captions are like; only shown."""
        self._broker.tally = message
        return []

    # ------------------------------------------------------------------ HELLO and state

    def hello(self, state: PeerState, message: m.Hello, now: float) -> list[Effect]:
        """A writer introduces itself, with its store."""
        broker, facts = self._broker, message.store
        problem = self._hello_problem(facts)
        if problem or facts is None:
            return broker.refuse(state.peer, "store", problem, fatal=True)
        # The same process again (a HELLO that came twice) may be behind its own COMMITs; a new one may not.
        again = state.instance == self._writer_instance
        if facts.position < broker.position and not again and not broker.rules.accept_loss:
            return [
                Stop(
                    f"The writer's store ends at position {facts.position}, but {broker.position} was acknowledged: "
                    "captions that were acknowledged are gone.",
                    "Look at the disk and the backups of the store first. To go on without what was lost, start "
                    "cfbus-broker (or cfbus run) once with --accept-loss.",
                )
            ]
        broker.peers[state.peer.connection] = state
        if facts.position < broker.position and not again:
            for walk in broker.passes.values():
                walk.forget()
        broker.store_id = facts.store_id
        broker.position = max(facts.position, broker.position) if again else facts.position
        self._writer_instance = state.instance
        broker.granting.cancel_preparing()
        self._asked_at = now
        broker.writer = WriterState(state.peer.connection, facts.store_id, facts.position, now)
        return [
            SavePosition(facts.store_id, broker.position),
            broker.joining.welcome(state),
            Send(state.peer.connection, m.Since(shards=len(broker.shards))),
            Note("writer.joined", (("store", facts.store_id), ("position", facts.position))),
        ]

    def _hello_problem(self, facts: m.StoreFacts | None) -> str:
        broker = self._broker
        if facts is None:
            return "A writer has to say which store it has."
        if facts.dataset != broker.rules.dataset:
            return f"This bus captions {broker.rules.dataset!r}; the writer's store is of {facts.dataset!r}."
        if broker.store_id and facts.store_id != broker.store_id:
            return (
                f"This broker knows store {broker.store_id}, the writer has {facts.store_id}. Start the writer of the "
                "right store, or give the broker a data directory of its own for this one."
            )
        return ""

    def state(self, writer: WriterState, message: m.State, payload: bytes, now: float) -> list[Effect]:
        """A page of the writer's state."""
        self._asked_at = now  # the answer is coming, however long it is
        try:
            table = decode_table(message.table, payload)
        except WireError as error:
            return [Note("writer.bad-state", (("why", str(error)),))]
        broker = self._broker
        whole = message.snapshot and self._follows(writer, message.page)
        for facts in message.passes:
            self._know_pass(facts)
        if message.table == "shards":
            if message.first > len(broker.shards):
                return [Send(writer.connection, m.Since(shards=len(broker.shards)))]
            names, lengths = table.text("name").texts(), table.numbers("length").tolist()
            for name, length in list(zip(names, lengths, strict=True))[len(broker.shards) - message.first :]:
                broker.shards.add(name, length)
        else:
            take = self._select if message.table == "selected" else self._mark_done
            rows = (table.numbers(name).tolist() for name in ("pass_number", "shard", "start", "end"))
            for (number, shard), group in groupby(zip(*rows, strict=True), key=itemgetter(0, 1)):
                take(number, shard, tuple((start, end) for _, _, start, end in group))
        if whole and message.last and not writer.caught_up:
            return self._caught_up(writer, message)
        return []

    def _know_pass(self, facts: m.PassFacts) -> None:
        broker, number = self._broker, facts.number
        if number in broker.passes:
            broker.passes[number].closed = facts.closed
            for lease in [it for it in broker.leases.current() if facts.closed and it.row.pass_number == number]:
                broker.end_lease(lease)
        elif facts.items is None:
            broker.passes[number] = Pass(number, facts.slots, broker.shards)
        else:
            self._coming.setdefault(number, _Coming(facts))
            self._select(number, 0, ())

    def _select(self, number: int, shard: int, pairs: tuple[Pair, ...]) -> None:
        """What a redo is over; when all of it has come it is a pass."""
        if number not in self._coming:
            return
        coming = self._coming[number]
        facts = coming.facts
        if pairs:
            coming.items += coming.selected.setdefault(shard, RangeSet()).update(pairs)
        if coming.items == facts.items:
            walk = Pass(number, facts.slots, self._broker.shards, coming.selected, facts.overrides)
            walk.closed = facts.closed
            self._broker.passes[number] = walk
            del self._coming[number]

    def _follows(self, writer: WriterState, page: int) -> bool:
        """Each page of this answer came, so far. After a gap all wait for the first page of another answer."""
        if page == 0 or page == writer.next_page:
            writer.next_page = page + 1
            return True
        if page > writer.next_page:
            writer.next_page = 0
        return False

    def _caught_up(self, writer: WriterState, message: m.State) -> list[Effect]:
        broker = self._broker
        writer.caught_up = True
        writer.position = broker.position = max(broker.position, message.position)
        effects: list[Effect] = [SavePosition(writer.store_id, broker.position)]
        effects.append(Note("writer.caught-up", (("position", broker.position),)))
        effects += self._send_tasks()
        effects += broker.verdicts.send_again()
        return effects + self._resend()

    def _resend(self) -> list[Effect]:
        workers = [state for state in self._broker.peers.values() if state.peer.role is Role.WORKER]
        return [Send(state.peer.connection, m.Resend()) for state in workers]

    def ask_again(self, now: float) -> list[Effect]:
        """The writer did not answer for a while: a question or its answer may have been lost. Asking twice is
        harmless."""
        broker = self._broker
        if broker.writer is None or now - self._asked_at < ASK_AGAIN_SECONDS:
            return []
        self._asked_at = now
        if not broker.writer.caught_up:
            return [Send(broker.writer.connection, m.Since(shards=len(broker.shards)))]
        return [*self._send_tasks(), *broker.verdicts.send_again()]

    def again(self, now: float) -> list[Effect]:
        """Nothing is known to be done any more; the writer is asked for all of it."""
        writer = self._broker.writer
        assert writer is not None
        for walk in self._broker.passes.values():
            walk.forget()
        writer.caught_up, self._asked_at = False, now
        return [Send(writer.connection, m.Since(shards=len(self._broker.shards)))]

    def deadlines(self) -> list[float]:
        """When to ask again."""
        broker = self._broker
        unanswered = self._tasks or broker.verdicts.undelivered
        if broker.writer is None or (broker.writer.caught_up and not unanswered):
            return []
        return [self._asked_at + ASK_AGAIN_SECONDS]

    def _send_tasks(self) -> list[Effect]:
        assert self._broker.writer is not None
        to = self._broker.writer.connection
        return [Send(to, task, self._payloads.get(task.task, b"")) for task in self._tasks.values()]

    def _mark_done(self, number: int, shard: int, pairs: tuple[Pair, ...]) -> list[Effect]:
        broker = self._broker
        walk = broker.passes.get(number)
        if walk is None or shard >= len(broker.shards):
            return []
        walk.mark_done(shard, pairs)
        for lease in broker.leases.mark_done(number, shard, pairs):
            if not lease.undone and not lease.preparing:
                broker.end_lease(lease)
        for index in broker.claims.accused(number, shard):
            if any(start <= index < end for start, end in pairs):
                broker.claims.clear((number, shard, index))
        if walk.shard_complete(shard):
            gone = broker.leases.forget(number, shard)
            return [DropLeases(gone)] if gone else []
        return []

    # ------------------------------------------------------------------ COMMIT

    def commit(self, writer: WriterState, message: m.Commit, now: float) -> list[Effect]:
        """The writer says what is durable now."""
        broker = self._broker
        effects: list[Effect] = []
        if message.state == "open" != writer.state:
            effects += self._resend()
        writer.room, writer.state = message.room, message.state
        broker.captions, broker.dead_letters = message.captions, message.dead_letters
        behind = message.after > writer.position or message.shards > len(broker.shards)
        if writer.caught_up and (behind or message.passes > len(broker.passes)):
            writer.caught_up = False
            self._asked_at = now
            effects.append(Send(writer.connection, m.Since(shards=len(broker.shards))))
        writer.position = max(writer.position, message.position)
        if message.position > broker.position:
            broker.position = message.position
            effects.append(SavePosition(writer.store_id, message.position))
        acks: dict[Connection, list[m.Acked]] = defaultdict(list)
        for stored in message.results:
            effects += self._stored(stored, acks)
        window = broker.window()
        effects += [Send(to, m.Ack(results=tuple(acked), window=window)) for to, acked in acks.items()]
        return effects + self._done_elsewhere(message, now)

    def _stored(self, stored: m.Stored, acks: dict[Connection, list[m.Acked]]) -> list[Effect]:
        broker = self._broker
        if stored.instance == broker.rules.instance:
            broker.verdicts.settled(stored.number)
        else:
            route = broker.routes.get(stored.instance)
            if route is not None:
                acked = m.Acked(
                    instance=stored.instance, number=stored.number, status=stored.status, reason=stored.reason
                )
                acks[route].append(acked)
        if stored.status == "refused":
            broker.counts.refuse_result("not-stored")
            return [Note("result.refused", (("why", stored.reason), ("instance", stored.instance)))]
        broker.counts.duplicates += stored.status == "duplicate"
        if stored.ranges and stored.status == "stored":
            start, end = stored.ranges[0][0], stored.ranges[-1][1]
            route = broker.peers.get(broker.routes.get(stored.instance))
            who = route.name if route is not None else stored.instance
            by = route.peer.contributor if route is not None else ""
            broker.story.tell(stored.shard, Line(broker.wall, stored.pass_number, start, end, "stored", who, by))
        return self._mark_done(stored.pass_number, stored.shard, stored.ranges)

    def _done_elsewhere(self, message: m.Commit, now: float) -> list[Effect]:
        """Holders of other leases over these items are told at once, so that they skip them."""
        broker = self._broker
        stored = [result for result in message.results if result.status == "stored"]
        places = {(result.pass_number, result.shard): result.instance for result in stored}
        effects: list[Effect] = []
        for (number, shard), by in places.items():
            leases = broker.leases.at(number, shard)
            if not any(lease.row.backup for lease in leases):
                continue
            for lease in leases:
                if lease.row.instance == by or lease.preparing or lease.connection is None:
                    continue
                done = lease.items - len(lease.undone)
                if done > lease.told:
                    lease.told = done
                    state = broker.lease_state(lease, now)
                    effects.append(Send(lease.connection, m.Renewed(leases=(state,), window=broker.window())))
        return effects

    # ------------------------------------------------------------------ tasks

    def ask_for_work(self, now: float) -> list[Effect]:
        """What the writer should be doing and is not asked to yet."""
        broker = self._broker
        if broker.writer is None or not broker.writer.caught_up:
            return []
        kinds = {task.kind for task in self._tasks.values()}
        effects: list[Effect] = []
        if self.missing_slots and "open-pass" not in kinds and not self.problem:
            effects += self._ask("open-pass", slots=self.missing_slots)
        if not self.scanned and "scan" not in kinds and not self.problem:
            effects += self._ask("scan")
        if broker.finished and not self.sealed and self._sealing_at < broker.position:
            self._sealing_at = broker.position
            return [*effects, *self._ask_for_records(now), *self._ask("seal")]
        if now - self._recorded_at >= RECORDS_SECONDS and "jobs" not in kinds and broker.position != self._recorded:
            effects += self._ask_for_records(now)
        return effects

    def _ask_for_records(self, now: float) -> list[Effect]:
        broker = self._broker
        self._recorded_at, self._recorded = now, broker.position
        return [
            *self._ask("jobs", payload=jobs(broker)),
            *self._ask("contributors", payload=contributors(broker)),
        ]

    def _ask(self, kind: str, *, slots: tuple[str, ...] = (), payload: bytes = b"") -> list[Effect]:
        return self.give(m.Task.model_validate({"task": self._broker.new_id(), "kind": kind, "slots": slots}), payload)

    def give(self, task: m.Task, payload: bytes = b"") -> list[Effect]:
        """Have the writer do this; it is asked again until it has said that it did."""
        broker = self._broker
        assert broker.writer is not None
        self._tasks[task.task] = task
        self._payloads[task.task] = payload
        return [Send(broker.writer.connection, task, payload)]

    def task_done(self, message: m.Done) -> list[Effect]:
        """The writer ended a task."""
        task = self._tasks.pop(message.task, None)
        self._payloads.pop(message.task, None)
        if task is None:
            return []
        if task.kind in ("amend", "look"):
            return self._broker.amending.ended(task, message)
        if message.problem:
            if task.kind not in RECORDS:
                self.problem = message.problem
            return [Note("task.failed", (("kind", task.kind), ("why", message.problem)))]
        if task.kind == "scan":
            self.scanned = True
        if task.kind == "seal":
            self._sealed_at = message.count
        return [Note("task.done", (("kind", task.kind), ("count", message.count)))]
