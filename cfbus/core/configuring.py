"""The configuration that holds, its number, and what workers say to a new one.

Part of the broker's core. Must not know files: what was read, and whether it may be taken, is decided before.

Invariants: a generation is in the ledger before a peer is told of it, and is never given to another spec while the
ledger lives; a slot of a pass that is not complete keeps its prompt, because items are delivered whole; nobody is told
again for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.messages import Role
from cfbus.core.effects import Connection, Effect, Note, SaveGeneration, Send
from cfbus.core.limits import Limits
from cfbus.core.state import Remembered

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.state import PeerState

TELL_AGAIN_SECONDS = 5.0
MOST_TELLINGS = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a broker's configuration can change while it runs."""

    spec: m.Spec
    chunk_size: int
    lease_seconds: float
    max_attempts: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said to the generation that holds; ``outcome`` is ``asked`` as long as it has said nothing."""

    worker: str
    contributor: str
    instance: str
    outcome: str
    reason: str


@dataclass(slots=True)
class _Told:
    at: float
    times: int = 1


class Configuring:
    """Changes the broker's rules, and has the workers follow."""

    def __init__(self, broker: Broker, remembered: Remembered) -> None:
        self._broker = broker
        self._told: dict[Connection, _Told] = {}
        self._saved: tuple[int, str] = (remembered.generation, remembered.spec)
        spec = broker.rules.spec.hash
        number = remembered.generation + (spec != remembered.spec)
        broker.rules = replace(broker.rules, generation=max(number, broker.rules.generation))

    def unsaved(self) -> list[Effect]:
        """What the ledger has to know before anything is sent."""
        rules = self._broker.rules
        now = (rules.generation, rules.spec.hash)
        if now == self._saved:
            return []
        self._saved = now
        return [SaveGeneration(*now)]

    # ------------------------------------------------------------------ changing

    def problems(self, spec: m.Spec) -> list[str]:
        """Why this spec cannot take the place of the one that holds."""
        broker, there = self._broker, {slot.name for slot in spec.slots}
        ours = {slot.name for slot in broker.rules.spec.slots}
        going = ours - there
        if going and (broker.writer is None or not broker.writer.caught_up or not broker.catchup.scanned):
            why = "cannot go while it is not known what is listed and done"
            return [f"captions.slots.{slot} {why}" for slot in sorted(going)]
        undone = {slot: walk.number for walk in broker.passes.values() if not walk.complete for slot in walk.slots}
        gone = [
            f"captions.slots.{slot} cannot go before pass {number}, which writes it, is complete"
            for slot, number in undone.items()
            if slot in going
        ]
        opening = sorted(set(broker.catchup.opening) & going - undone.keys())
        return [*gone, *(f"captions.slots.{slot} cannot go while a pass is opened for it" for slot in opening)]

    def change(self, settings: Settings, now: float) -> list[Effect]:
        """This holds from now on; when it holds already nothing happens, but that what a writer could not do is tried
        again. ``problems`` must have found none."""
        broker, rules = self._broker, self._broker.rules
        wanted = replace(
            rules,
            spec=settings.spec,
            chunk_size=settings.chunk_size,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            limits=settings.limits,
        )
        kept, broker.catchup.problem = broker.catchup.problem, ""  # its cause may have been mended, here or elsewhere
        if wanted == rules:
            return broker.settle([], now) if kept else []
        broker.rules = replace(wanted, generation=rules.generation + 1)
        broker.claims.max_attempts = settings.max_attempts
        told = [self._tell(state, now) for state in broker.peers.values() if state.peer.role is Role.WORKER]
        facts = (("generation", broker.rules.generation), ("spec", settings.spec.hash), ("workers", len(told)))
        return broker.settle([*told, Note("config.changed", facts)], now)

    def _tell(self, state: PeerState, now: float) -> Send:
        rules = self._broker.rules
        self._told[state.peer.connection] = _Told(now)
        message = m.Config(generation=rules.generation, lease_seconds=rules.lease_seconds, spec=rules.spec)
        return Send(state.peer.connection, message)

    # ------------------------------------------------------------------ answers

    def told(self, connection: Connection, now: float) -> None:
        """A WELCOME said which generation holds; that is answered like CONFIG."""
        self._told[connection] = _Told(now)

    def forget(self, connection: Connection) -> None:
        """It is not here any more."""
        self._told.pop(connection, None)

    def applied(self, known: PeerState, message: m.Applied, now: float) -> list[Effect]:
        """A worker answers. What it says of an older generation is out of date; said after it took up the one that
        holds, it has heard the older one later, and is told again."""
        rules = self._broker.rules
        if message.generation != rules.generation:
            if known.answer is not None and known.answer.generation == rules.generation:
                self._told.setdefault(known.peer.connection, _Told(now))
            return []
        if known.answer == message:
            self._told.pop(known.peer.connection, None)
            return []
        before, known.answer = known.answer, message
        self._told.pop(known.peer.connection, None)
        again = before is not None and (before.generation, before.outcome) == (message.generation, message.outcome)
        if again or message.outcome == "applied":
            return []
        facts = (("worker", known.name), ("outcome", message.outcome), ("why", message.reason[:200]))
        return [Note("config.answered", facts)]

    def tick(self, now: float) -> list[Effect]:
        """Who has not answered for a while is told again, a bounded number of times."""
        effects: list[Effect] = []
        for connection, told in list(self._told.items()):
            if now < told.at + TELL_AGAIN_SECONDS:
                continue
            state = self._broker.peers.get(connection)
            if state is None or told.times >= MOST_TELLINGS:
                del self._told[connection]
                continue
            effects.append(self._tell(state, now))
            self._told[connection] = _Told(now, told.times + 1)
        return effects

    def deadlines(self) -> list[float]:
        """When to tell again."""
        return [told.at + TELL_AGAIN_SECONDS for told in self._told.values()]

    def answers(self) -> list[Answer]:
        """What each worker says to the generation that holds."""
        generation = self._broker.rules.generation
        found = []
        for state in self._broker.peers.values():
            if state.peer.role is not Role.WORKER:
                continue
            answer = state.answer if state.answer is not None and state.answer.generation == generation else None
            outcome, reason = (answer.outcome, answer.reason) if answer is not None else ("asked", "")
            found.append(Answer(state.name, state.peer.contributor, state.instance, outcome, reason))
        return found
