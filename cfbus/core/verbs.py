"""What admins can ask of a broker about its run, each verb a function of its state. Pure.

Must not know who asks, nor messages: `cfbus.core.asking` has the way in and out, and every call that comes there has a
line in the audit log.

Invariant: a verb that finds something wrong with what it was given changes nothing and says what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cfbus.core.told import Arguments, Told, Verb
from cfbus.core.verbs_leases import drain, leases, reset, story, undrain, workers
from cfbus.core.verbs_store import STORE_VERBS
from cfbus.core.watching import status

if TYPE_CHECKING:
    from cfbus.core.broker import Broker

FACT_CHARS = 256


def _status(broker: Broker, _arguments: Arguments, now: float) -> Told:
    view = status(broker, now)
    return Told(facts=tuple((name, str(value)[:FACT_CHARS]) for name, value in view.model_dump().items()))


def _pause(broker: Broker, _arguments: Arguments, _now: float) -> Told:
    broker.paused = True
    return Told(facts=(("paused", "yes"),))


def _resume(broker: Broker, _arguments: Arguments, _now: float) -> Told:
    broker.paused = False
    return Told(facts=(("paused", "no"),))


def _shutdown(broker: Broker, arguments: Arguments, now: float) -> Told:
    """End the broker: when all is captioned and sealed, or as soon as nothing is leased any more."""
    if arguments.get("when-done") == "yes":
        broker.ending = "done"
        return Told(facts=(("ends", "when all is captioned and sealed"),))
    broker.ending, broker.paused = "drained", True
    return Told(facts=(("ends", "when nothing is leased"),), effects=drain(broker, {}, now).effects)


def _answers(broker: Broker, _arguments: Arguments, _now: float) -> Told:
    rows = tuple((each.worker, each.contributor, each.outcome, each.reason) for each in broker.configuring.answers())
    facts = (("generation", str(broker.rules.generation)),)
    return Told(facts=facts, columns=("worker", "contributor", "answer", "because"), rows=rows)


def _rebuild_ledger(broker: Broker, _arguments: Arguments, now: float) -> Told:
    """Forget what is done, and ask the writer for all of it again. Leases stay; nothing is granted meanwhile."""
    if broker.writer is None or not broker.writer.caught_up:
        return Told(problem="The writer is away, or tells what there is already: start cfbus-writer, or wait.")
    return Told(facts=(("asked", "the writer, for all that is done"),), effects=tuple(broker.catchup.again(now)))


VERBS: Final[Mapping[str, tuple[Verb, frozenset[str]]]] = {
    "status": (_status, frozenset()),
    "pause": (_pause, frozenset()),
    "resume": (_resume, frozenset()),
    "answers": (_answers, frozenset()),
    "workers": (workers, frozenset()),
    "leases": (leases, frozenset({"worker"})),
    "story": (story, frozenset({"place"})),
    "drain": (drain, frozenset({"worker"})),
    "undrain": (undrain, frozenset({"worker"})),
    "reset": (reset, frozenset({"place", "stale", "contributor", "failed", "fault", "dry-run"})),
    "rebuild-ledger": (_rebuild_ledger, frozenset()),
    "shutdown": (_shutdown, frozenset({"when-done"})),
    **STORE_VERBS,
}
"""Verb -> what does it, and the arguments that it takes."""
READS: Final = frozenset({"status", "answers", "workers", "leases", "story", "task", "passes"})
"""Those that change nothing."""
