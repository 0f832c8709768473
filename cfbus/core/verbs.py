"""What admins can ask of a broker about its run, each verb a function of its state. Pure.

Must not know who asks, nor messages: `cfbus.core.asking` has the way in and out, and every call that comes there has a
line in the audit log.

Invariant: a verb that finds something wrong with what it was given changes nothing and says what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from cfbus.core.effects import Effect
from cfbus.core.watching import status

if TYPE_CHECKING:
    from cfbus.core.broker import Broker

FACT_CHARS = 256


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: facts, a table, or a problem; and what else is to be done before it is sent."""

    facts: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    problem: str = ""
    effects: tuple[Effect, ...] = ()


Arguments: TypeAlias = Mapping[str, str]
Verb: TypeAlias = Callable[["Broker", Arguments, float], Told]


def _status(broker: Broker, _arguments: Arguments, now: float) -> Told:
    view = status(broker, now)
    return Told(facts=tuple((name, str(value)[:FACT_CHARS]) for name, value in view.model_dump().items()))


def _pause(broker: Broker, _arguments: Arguments, _now: float) -> Told:
    broker.paused = True
    return Told(facts=(("paused", "yes"),))


def _resume(broker: Broker, _arguments: Arguments, _now: float) -> Told:
    broker.paused = False
    return Told(facts=(("paused", "no"),))


def _answers(broker: Broker, _arguments: Arguments, _now: float) -> Told:
    rows = tuple((each.worker, each.contributor, each.outcome, each.reason) for each in broker.configuring.answers())
    facts = (("generation", str(broker.rules.generation)),)
    return Told(facts=facts, columns=("worker", "contributor", "answer", "because"), rows=rows)


VERBS: Final[Mapping[str, tuple[Verb, frozenset[str]]]] = {
    "status": (_status, frozenset()),
    "pause": (_pause, frozenset()),
    "resume": (_resume, frozenset()),
    "answers": (_answers, frozenset()),
}
"""Verb -> what does it, and the arguments that it takes."""
READS: Final = frozenset({"status", "answers"})
"""Those that change nothing."""
