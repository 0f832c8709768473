"""The worker's core: leases held, items handed to the engine, results kept until they are acked.

Sans-IO, see ``cfbus.core.effects``. The worker is the bus's one retransmitter: a result is kept from the moment it is
made until its ACK, and sent again after a time-out, on RESEND, and after every WELCOME.

Invariants: an item is handed out once per lease; unacked bytes stay within the window (but for what is in flight when
it closes); what was acked is never sent again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_RANGES, RESULT_SPLIT_BYTES
from cfbus.core.effects import Effect, Note, Send, Stop, UseSpec
from cfbus.core.held import Held, Use
from cfbus.core.holding import Holding
from cfbus.core.measuring import Figures, Measured, Moment, RateMeter
from cfbus.core.outcome import EngineFacts, Outcome, WorkItem
from cfbus.core.results import messages_of, weighed
from cfbus.core.retransmit import BROKER, Retransmitter

HELLO_SECONDS = 3.0
MOST_RETRY_SECONDS = 300.0
HELPLESS = ("no-feeder", "cannot-read")
"""Reasons to wait that somebody has to mend."""
ASK_SECONDS = 30.0
LOW_WATER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerRules:
    """How this worker is run. ``concurrency`` is how many items the engine takes at once; ``reads`` says whether it
    can read the dataset's source itself."""

    instance: str
    name: str
    concurrency: int
    result_items: int = 64
    result_seconds: float = 1.0
    resend_seconds: float = 30.0
    reads: bool = True


class Worker:
    """The state of one worker."""

    def __init__(self, rules: WorkerRules, engine: EngineFacts, now: float) -> None:
        self.rules = rules
        self.engine = engine
        self.draining = False
        self._leaves = False  # drains by its own wish, for good
        self.on_hold = False
        self._held = Holding()
        self._results = Retransmitter(rules.resend_seconds)
        self._window = m.MAX_FRAME_BYTES
        self._number = 0
        self._use: Use | None = None
        self._answer: m.Applied | None = None
        self._welcomed = False
        self._hello_at = now + HELLO_SECONDS  # the first comes with the connection
        self._renew_at = now
        self._renew_seconds = 2.0
        self._asked_at: float | None = None
        self._waiting_for = ""
        self._rate = RateMeter()
        self._figures = Figures(now)

    # ------------------------------------------------------------------ for the shell

    def restore(self, results: Iterable[tuple[m.Result, bytes]], now: float) -> None:
        """Unacked results from a spool, perhaps of an earlier instance."""
        for message, payload in results:
            self._results.keep(message, payload, now, spooled=True)

    def next_items(self, count: int) -> list[WorkItem]:
        """Up to ``count`` items to read and caption now; none while the window is closed."""
        if self._results.bytes >= self._window or self._use is None:
            return []
        return self._held.begin(count, self._use)

    @property
    def rate(self) -> float:
        """Items per second, measured; 0 as long as it is not known."""
        return self._rate.rate

    @property
    def in_flight(self) -> int:
        """Items handed out and not finished."""
        return self._held.in_flight

    @property
    def unstarted(self) -> int:
        """Leased items not handed out yet."""
        return self._held.unstarted

    @property
    def unacked(self) -> int:
        """Results that wait for their ACK."""
        return len(self._results)

    @property
    def unacked_bytes(self) -> int:
        """Bytes of those."""
        return self._results.bytes

    @property
    def busy(self) -> bool:
        """Whether anything that was leased is to be captioned yet."""
        return self._held.busy

    @property
    def drained(self) -> bool:
        """A drain was asked for, and nothing is held any more."""
        return self.draining and not self._results and not any(h.in_flight or h.finished for h in self._held)

    @property
    def all_done(self) -> bool:
        """The broker said that everything is captioned, and nothing of ours waits for anything."""
        return self._waiting_for == "finished" and not self._held and not self._results

    @property
    def why_idle(self) -> str:
        """What the broker said when it had nothing."""
        return self._waiting_for

    # ------------------------------------------------------------------ events

    def connected(self, now: float) -> list[Effect]:
        """There is a way to the broker (again)."""
        self._welcomed = False
        self._asked_at = None
        self._hello_at = now + HELLO_SECONDS
        hello = m.Hello(
            role=m.Role.WORKER,
            instance=self.rules.instance,
            software="cfbus",
            name=self.rules.name,
            concurrency=self.rules.concurrency,
            held=self._held.names,
            reads=self.rules.reads,
        )
        return [Send(BROKER, hello)]

    def handle(self, message: m.Message, payload: bytes, now: float) -> list[Effect]:
        """The broker said something."""
        effects = self._dispatch(message, payload, now)
        return effects + self._ask(now)

    def _dispatch(self, message: m.Message, payload: bytes, now: float) -> list[Effect]:
        match message:
            case m.Welcome():
                return self._welcome(message, now)
            case m.Config():
                return self._take(message.spec, message.generation)
            case m.Grant():
                return self._grant(message, payload)
            case m.Wait():
                return self._waits(message.reason)
            case m.Renewed():
                self._window = message.window
                return [effect for state in message.leases for effect in self._held.told(state)]
            case m.Ack():
                self._window = message.window
                return [effect for acked in message.results for effect in self._acked(acked)]
            case m.Resend():
                return self._results.send_all(now)
            case m.Drain() | m.Undrain():
                return self._drain(now) if isinstance(message, m.Drain) else self._undrain()
            case m.Error():
                return self._error(message, now)
            case _:
                return []

    def _waits(self, reason: str) -> list[Effect]:
        news = reason in HELPLESS and reason != self._waiting_for
        self._waiting_for = reason
        return [Note("lease.waits", (("why", reason),))] if news else []

    def _error(self, message: m.Error, now: float) -> list[Effect]:
        if message.fatal:
            return [Stop(f"The broker refuses this worker: {message.sentence}", exit_code=77)]
        if message.code == "hello-first":
            return self.connected(now) if now >= self._hello_at - HELLO_SECONDS / 2 or self._welcomed else []
        self._hello_at = max(self._hello_at, now + min(message.retry_after, MOST_RETRY_SECONDS))
        return [Note("bus.error", (("code", message.code), ("sentence", message.sentence)))]

    def _welcome(self, message: m.Welcome, now: float) -> list[Effect]:
        self._welcomed = True
        self._window = message.window
        self._renew_seconds = max(message.heartbeat_seconds / 2, 0.05)
        self._renew_at = now + self._renew_seconds
        effects: list[Effect] = [Note("bus.welcomed", (("dataset", message.dataset),))]
        if self.draining:  # a broker that has just begun does not know
            effects.append(Send(BROKER, m.Drain()))
        for lease in message.lost:
            effects += self._held.lose(lease)
        if message.spec is not None:
            effects += self._take(message.spec, message.generation)
        return effects + self._results.send_all(now)

    def _take(self, spec: m.Spec, generation: int) -> list[Effect]:
        """By this from the next item on; what was told before is answered again, for the answer may be lost."""
        before = self._use
        if before is not None and before.same(spec, generation):
            return [Send(BROKER, self._answer)] if self._answer is not None else []
        self._use, self._answer = Use(spec, generation), None
        if before is None or before.spec != spec:
            self._rate.forget()
        return [UseSpec(spec, generation)]

    def applied(self, outcome: Literal["applied", "engine", "refused"], reason: str = "") -> list[Effect]:
        """The shell has done with the newest spec what it could; the broker is told."""
        if self._use is None:
            return []
        self._answer = m.Applied(generation=self._use.generation, outcome=outcome, reason=reason[:1024])
        return [Send(BROKER, self._answer)] if self._welcomed else []

    def _grant(self, message: m.Grant, payload: bytes) -> list[Effect]:
        self._asked_at = None
        self._waiting_for = ""
        self._window = message.window
        return self._held.granted(message, payload, welcome=not (self.draining or self.on_hold))

    def feeder_unreachable(self, lease: str, now: float) -> list[Effect]:
        """The shell gets nothing of this lease from its feeder."""
        return self._held.unreachable(lease) + self._ask(now)

    # ------------------------------------------------------------------ outcomes and results

    def outcomes(self, outcomes: Iterable[Outcome], now: float) -> list[Effect]:
        """The engine finished these. Those that nobody waits for any more are dropped."""
        effects: list[Effect] = []
        needed = 0
        for outcome in outcomes:
            held = self._held.get(outcome.lease)
            if held is None or outcome.index not in held.in_flight:
                continue
            use = held.in_flight.pop(outcome.index)
            outcome, size = weighed(outcome)
            if not held.finished:
                held.since = now
            held.finished.append((outcome, use))
            held.finished_bytes += size
            held.captioned += 1
            needed += 1
            full = len(held.finished) >= self.rules.result_items or held.finished_bytes >= RESULT_SPLIT_BYTES // 2
            if full or not (held.todo or held.in_flight):
                effects += self._flush(held, now)
        self._figures.count(needed)
        self._rate.see(needed, now)
        return effects + self._ask(now)

    def _flush(self, held: Held, now: float) -> list[Effect]:
        finished, total, held.finished, held.finished_bytes = held.finished, held.finished_bytes, [], 0
        effects: list[Effect] = []
        for message, payload in messages_of(finished, total, held.grant, self.engine, self.rules, self._number):
            self._number = message.number
            effects += self._keep_and_send(held, message, payload, now)
        return effects

    def _keep_and_send(self, held: Held, message: m.Result | m.Failed, payload: bytes, now: float) -> list[Effect]:
        self._results.keep(message, payload, now)
        held.unacked += 1
        return [Send(BROKER, message, payload)] if self._welcomed else []

    def _acked(self, acked: m.Acked) -> list[Effect]:
        message, effects = self._results.settle(acked)
        held = self._held.get(message.lease) if message is not None else None
        if held is not None and acked.instance == self.rules.instance:
            held.unacked -= 1
            effects += self._held.forget_if_over(held)
        return effects

    # ------------------------------------------------------------------ asking and time

    def _ask(self, now: float) -> list[Effect]:
        """Ask for a lease early enough that the engine never waits for one."""
        if not self._welcomed or self.draining or self.on_hold or self._use is None:
            return []
        if self._results.bytes >= self._window:
            return []
        if self._asked_at is not None and now - self._asked_at < ASK_SECONDS:
            return []
        if self.unstarted > max(2 * self.rules.concurrency, self.rate * LOW_WATER_SECONDS):
            return []
        self._asked_at = now
        shard = next((held.grant.shard for held in self._held), None)
        return [Send(BROKER, m.Lease(want=m.MAX_CHUNK_ITEMS, rate=self.rate, shard=shard))]

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        effects: list[Effect] = []
        for held in self._held:
            if held.finished and now >= held.since + self.rules.result_seconds:
                effects += self._flush(held, now)
        effects += self._results.spool_old(now)
        if not self._welcomed:
            return effects + (self.connected(now) if now >= self._hello_at else [])
        effects += self._results.send_due(now)
        if now >= self._renew_at:
            effects += self._renew(now)
        return effects + self._ask(now)

    def _renew(self, now: float) -> list[Effect]:
        self._renew_at = now + self._renew_seconds
        current = [held for held in self._held if held.current][:256]
        if not current:
            return self._beat(now)
        leases = tuple(m.HeldLease(lease=held.grant.lease, captioned=held.captioned) for held in current)
        return [Send(BROKER, m.Renew(leases=leases, unacked_bytes=self._results.bytes, rate=self.rate))]

    def measured(self, measured: Measured, now: float) -> list[Effect]:
        """The shell looked at its engine and GPUs."""
        closed = self._results.bytes >= self._window
        moment = Moment(
            self.rules.concurrency, self.in_flight, self.unstarted, self._welcomed, self.draining, closed,
            self._waiting_for,
        )  # fmt: skip
        return self._beat(now) if self._figures.see(moment, measured, now) and self._welcomed else []

    def heartbeat(self) -> m.Heartbeat:
        """What the broker is told of this worker beside its work."""
        return self._figures.beat(self.rate, self.in_flight, len(self._held), self._results.bytes)

    def _beat(self, now: float) -> list[Effect]:
        self._figures.told(now)
        return [Send(BROKER, self.heartbeat())]

    def next_deadline(self) -> float:
        """When ``tick`` has something to do."""
        times = [self._renew_at if self._welcomed else self._hello_at]
        times += [held.since + self.rules.result_seconds for held in self._held if held.finished]
        return min([*times, *self._results.deadlines(sending=self._welcomed)])

    # ------------------------------------------------------------------ changing and leaving

    def hold(self, now: float, *, give_back: bool = False) -> list[Effect]:
        """Take no leases until ``go_on``; ``give_back``: hand back what is not begun, too."""
        self.on_hold = True
        return self._hand_back(now, at_once=False) if give_back else []

    def go_on(self, now: float) -> list[Effect]:
        """Take leases again."""
        if not self.on_hold:
            return []
        self.on_hold = False
        self._asked_at = None
        return self._ask(now)

    def captioned_by(self, engine: EngineFacts, now: float) -> list[Effect]:
        """Another engine has taken the place of the one that was; what that one wrote says so."""
        effects = [effect for held in self._held for effect in self._flush(held, now)]
        self.engine = engine
        self._rate.forget()
        return effects

    def drain(self, now: float, *, at_once: bool = False) -> list[Effect]:
        """Leave soon: take nothing new; hand back what is not begun (``at_once``: also what is in flight)."""
        self._leaves = True
        return self._drain(now, at_once=at_once)

    def _drain(self, now: float, *, at_once: bool = False) -> list[Effect]:
        effects: list[Effect] = [] if self.draining else [Send(BROKER, m.Drain())]
        self.draining = True
        return effects + self._hand_back(now, at_once=at_once)

    def _undrain(self) -> list[Effect]:
        """The broker wants work to be taken again; who leaves does not."""
        if self._leaves:
            return [Send(BROKER, m.Drain())]
        self.draining = False
        self._asked_at = None
        return [Send(BROKER, m.Undrain())]

    def _hand_back(self, now: float, *, at_once: bool) -> list[Effect]:
        effects: list[Effect] = []
        for held in self._held:
            back = held.taken_back(at_once=at_once)
            if back and held.current:
                effects.append(Send(BROKER, m.Release(lease=held.grant.lease, ranges=back.pairs()[:MAX_RANGES])))
            if not held.in_flight:
                effects += self._flush(held, now)
            effects += self._held.forget_if_over(held)
        return effects

    def leave(self) -> list[Effect]:
        """Say goodbye; what is still unacked goes to the spool."""
        return [*self._results.spool_all(), Send(BROKER, m.Bye())]
