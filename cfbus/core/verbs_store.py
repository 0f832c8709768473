"""Verbs of admins about what is stored: redo, undo, what was given up on. Pure.

What is asked here is checked as far as the broker knows, and given to the writer as a task, whose id is the answer.
Invariants: nothing is begun that the writer would refuse for a reason that is known here; a redo's overrides have a
meaning for the spec that holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_OVERRIDE_CHARS, MAX_OVERRIDES, Overrides
from cfbus.core.overriding import overridden
from cfbus.core.told import Arguments, Told, Verb

if TYPE_CHECKING:
    from cfbus.core.broker import Broker

Check = Callable[["Broker", Arguments], str]
"""Why something cannot be asked; empty when it can."""
TASKS_SHOWN = 64


def overrides_of(text: str) -> Overrides:
    """What of the spec is otherwise, of a JSON object. ``ValueError`` with a sentence where it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("what is set has to be a JSON object") from None
    if not isinstance(found, dict):
        raise ValueError("what is set has to be a JSON object")
    told = tuple((str(name), json.dumps(value)) for name, value in found.items())
    fits = all(len(value) <= MAX_OVERRIDE_CHARS and re.fullmatch("[a-z][a-z0-9_]{0,31}", name) for name, value in told)
    if len(told) > MAX_OVERRIDES or not fits:
        raise ValueError(f"at most {MAX_OVERRIDES} things can be set, each in {MAX_OVERRIDE_CHARS} characters")
    return told


def _requeue(broker: Broker, arguments: Arguments) -> str:
    if not arguments.get("where", "").strip():
        return "Say which captions: --where CONDITION, such as \"finish_reason = 'length'\"."
    slots = [slot.name for slot in broker.rules.spec.slots]
    slot = arguments.get("slot")
    if slot is not None and slot not in slots:
        return f"The configuration has no slot {slot[:60]!r}. It has {', '.join(slots)}."
    try:
        overridden(broker.rules.spec, overrides_of(arguments.get("set", "{}")))
    except ValueError as error:
        return f"That cannot be set: {error}."
    return ""


def _one_of(*names: str) -> Check:
    def check(_broker: Broker, arguments: Arguments) -> str:
        given = [name for name in names if arguments.get(name)]
        if len(given) == 1:
            return ""
        return f"Say one of: {', '.join(f'--{name}' for name in names)}."

    return check


def _revoke(broker: Broker, arguments: Arguments) -> str:
    return _one_of("contributor", "key", "worker")(broker, arguments) or _since(arguments)


def _since(arguments: Arguments) -> str:
    return "" if re.fullmatch("[0-9]{1,18}", arguments.get("since", "0")) else "since is a time in microseconds."


def _takedown(broker: Broker, arguments: Arguments) -> str:
    problem = _one_of("key", "sha256")(broker, arguments)
    if problem or "sha256" not in arguments or re.fullmatch("[0-9a-fA-F]{64}", arguments["sha256"]):
        return problem
    return "A SHA-256 has 64 hexadecimal digits."


def _numbered(name: str) -> Check:
    def check(_broker: Broker, arguments: Arguments) -> str:
        return "" if re.fullmatch("[0-9]{1,9}", arguments.get(name, "")) else f"Say the number of the {name}."

    return check


def _anything(_broker: Broker, _arguments: Arguments) -> str:
    return ""


def _close(broker: Broker, arguments: Arguments) -> str:
    problem = _numbered("pass")(broker, arguments)
    if problem:
        return problem
    walk = broker.passes.get(int(arguments["pass"]))
    if walk is not None and walk.is_redo and not walk.closed:
        return ""
    open_ = [str(number) for number, each in broker.passes.items() if each.is_redo and not each.closed]
    return f"There is no open redo with the number {arguments['pass']}. Open are: {', '.join(open_) or 'none'}."


_CHECKS: Final[Mapping[str, tuple[str, Check, frozenset[str]]]] = {
    "requeue": ("amend", _requeue, frozenset({"where", "slot", "set", "dry-run"})),
    "revoke-rows": ("amend", _revoke, frozenset({"contributor", "key", "worker", "since", "dry-run"})),
    "takedown": ("amend", _takedown, frozenset({"key", "sha256", "shard", "dry-run"})),
    "reopen": ("amend", _anything, frozenset({"reason", "fault", "shard", "dry-run"})),
    "restore": ("amend", _numbered("tombstone"), frozenset({"tombstone"})),
    "close-pass": ("amend", _close, frozenset({"pass"})),
    "dead-letters": ("look", _anything, frozenset({"reason", "fault", "shard", "by"})),
    "tombstones": ("look", _anything, frozenset()),
    "scan": ("look", _anything, frozenset()),
}


def _begin(verb: str, kind: str, check: Check) -> Verb:
    def perform(broker: Broker, arguments: Arguments, _now: float) -> Told:
        problem = _away(broker) or check(broker, arguments)
        if problem:
            return Told(problem=problem)
        given = {**arguments}
        if "contributor" in given:
            names = {name: one for one, name, _ in broker.contributors}
            given["contributor"] = names.get(given["contributor"], given["contributor"])
        task = m.Task.model_validate(
            {
                "task": broker.new_id(),
                "kind": kind,
                "slots": tuple(slot.name for slot in broker.rules.spec.slots),
                "verb": verb,
                "arguments": tuple(given.items()),
            }
        )
        return Told(facts=(("task", task.task),), task=task)

    return perform


def _away(broker: Broker) -> str:
    if broker.writer is None or not broker.writer.caught_up:
        return "The writer is away, or just came: this is its work. Start cfbus-writer, or try again in a moment."
    if broker.amending.full:
        return "So much is asked of the writer already. Wait until some of it is done: cfbus-admin task."
    return ""


def _task(broker: Broker, arguments: Arguments, _now: float) -> Told:
    """What came of a task, or which there are."""
    name = arguments.get("task")
    if name is None:
        known = list(broker.amending.all().items())[-TASKS_SHOWN:]
        rows = tuple((task, it.task.verb, it.who, _outcome(it.done)) for task, it in known)
        return Told(columns=("task", "verb", "who", "outcome"), rows=rows)
    begun = broker.amending.get(name)
    if begun is None:
        return Told(problem=f"There is no task {name[:20]!r}: it is from before the broker started, or long over.")
    done = begun.done
    if done is None:
        return Told(facts=(("state", "running"),))
    if done.problem:
        return Told(problem=done.problem)
    return Told(facts=(("state", "done"), *done.facts[:36]), columns=done.columns, rows=done.rows)


def _outcome(done: m.Done | None) -> str:
    return "running" if done is None else done.problem or "done"


def _passes(broker: Broker, _arguments: Arguments, _now: float) -> Told:
    """All passes: what they are over, how far they are."""
    rows = []
    for number, walk in sorted(broker.passes.items()):
        kind = "redo" if walk.is_redo else "all items"
        state = "closed" if walk.closed else "complete" if walk.complete else "open"
        with_ = ", ".join(f"{name}={value}" for name, value in walk.overrides)
        counts = (str(walk.items), str(walk.done_items), str(walk.held_items))
        rows.append((str(number), kind, ", ".join(walk.slots), *counts, state, with_))
    return Told(columns=("pass", "of", "slots", "items", "done", "held", "state", "set"), rows=tuple(rows))


STORE_VERBS: Final[Mapping[str, tuple[Verb, frozenset[str]]]] = {
    **{verb: (_begin(verb, kind, check), takes) for verb, (kind, check, takes) in _CHECKS.items()},
    "task": (_task, frozenset({"task"})),
    "passes": (_passes, frozenset()),
}
"""Verb -> what does it, and the arguments that it takes."""
