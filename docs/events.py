"""What daemons log, taken from their source: the name of each event, how loud it is, who logs it, and what it carries.

Knows Python's syntax and the folders of this repository; must not know what an event means: that stands in
``words.toml``, and for what is loud in the index of alarms in operations.md.

Invariant: a call that logs something whose name cannot be read from the source is an error, never a gap.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wording import Meanings, PageError, code, table

import cfbus
from cfbus.bus.following import Connection

ROOT = Path(cfbus.__file__).resolve().parent.parent
LEVELS = ("debug", "info", "warning", "error")
LOUD = frozenset({"warning", "error"})
WAYS = (
    Connection.DISCONNECTED, Connection.HUNG_UP, Connection.LATER, Connection.RETRYING, Connection.WRONG_SERVER,
)  # fmt: skip
"""What `Link` says of a way to the broker that is not there."""
NAMED: Mapping[str, Sequence[str]] = {
    "f'bus.{why.value}'": tuple(f"bus.{way.value}" for way in WAYS),
    "event": (),  # of a note, which is found where it is made
    "note.event": (),
}
"""Names that are made while the program runs, as the source has them, and what they can be."""
LOGGERS = ("log", "_log", "get_logger()")
DAEMONS: Mapping[str, str] = {
    "daemons/broker.py": "broker", "daemons/guard.py": "broker", "daemons/reconfiguring.py": "broker",
    "daemons/registrar.py": "broker", "daemons/writer.py": "writer", "daemons/amender.py": "writer",
    "daemons/scanning.py": "writer", "daemons/feeder.py": "feeder",
    "daemons/gpu.py": "gpu", "daemons/gpu_reading.py": "gpu", "daemons/reloading.py": "gpu",
    "daemons/key_age.py": "all but the broker",
    "daemons/": "all",
    "cfbus/core/worker.py": "gpu", "cfbus/core/holding.py": "gpu", "cfbus/core/retransmit.py": "gpu",
    "cfbus/core/serving.py": "feeder", "cfbus/core/writer.py": "writer", "cfbus/core/": "broker",
    "cfbus/engines/": "gpu", "cfbus/gpus.py": "gpu", "cfbus/link.py": "all but the broker", "cfbus/": "all",
}  # fmt: skip
"""Who logs what is in a file, or in a folder; the first that fits counts."""


@dataclass(frozen=True, slots=True)
class Event:
    """One place where something is logged."""

    name: str
    level: str
    daemon: str
    values: tuple[str, ...]


OWN = (
    Event("log.repeats", "info", "all", ("repeated", "hidden")),
    Event("library.NAME", "warning", "all", ("message",)),
)
"""What `cfbus.logs` writes by itself."""


def events() -> list[Event]:
    """All of them, by name."""
    found = list(OWN)
    for folder in ("cfbus", "daemons"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            if not place.startswith(("cfbus/daemons", "cfbus/tools")):
                found += _of(place, ast.parse(path.read_text(encoding="utf-8")))
    return sorted(found, key=lambda event: (event.name, event.daemon))


def page(words: Meanings) -> str:
    """The table of all, by name; what is loud is explained where it is said what to do."""
    found: dict[str, list[Event]] = {}
    for event in events():
        found.setdefault(event.name, []).append(event)
    rows = []
    for name, places in found.items():
        levels = [level for level in LEVELS if any(place.level == level for place in places)]
        meaning = "[alarm](operations.md#alarms)" if LOUD.intersection(levels) else words.of("events", name)
        daemons = sorted({place.daemon for place in places})
        values = list(dict.fromkeys(value for place in places for value in place.values))
        rows.append((code(name), ", ".join(levels), ", ".join(daemons), ", ".join(map(code, values)), meaning))
    return table(("event", "level", "logged by", "values", "meaning"), rows)


def _of(place: str, tree: ast.Module) -> Iterator[Event]:
    daemon = next(who for where, who in DAEMONS.items() if place.startswith(where))
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "Note":
            level, values = "info", _facts(node, assigned)
        elif _logs(node.func):
            level, values = (
                node.func.attr,
                tuple(word.arg for word in node.keywords if word.arg not in (None, "exc_info")),
            )
        else:
            continue
        yield from (Event(name, level, daemon, values) for name in _names(node.args[0], f"{place}:{node.lineno}"))


def _logs(function: ast.expr) -> bool:
    if not (isinstance(function, ast.Attribute) and function.attr in LEVELS):
        return False
    return ast.unparse(function.value).rpartition(".")[2] in LOGGERS


def _names(name: ast.expr, where: str) -> Sequence[str]:
    if isinstance(name, ast.IfExp):
        return (*_names(name.body, where), *_names(name.orelse, where))
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        return (name.value,)
    said = ast.unparse(name)
    if said not in NAMED:
        raise PageError(f"{where}: an event has the name {said}, which docs/events.py does not know.")
    return NAMED[said]


def _facts(note: ast.Call, assigned: Sequence[ast.Assign]) -> tuple[str, ...]:
    """The names of what a note carries; of a variable, what was assigned to it last, above."""
    if len(note.args) < 2:
        return ()
    facts = note.args[1]
    if isinstance(facts, ast.Name):
        above = [each for each in assigned if each.lineno < note.lineno and ast.unparse(each.targets[0]) == facts.id]
        facts = max(above, key=lambda each: each.lineno).value if above else facts
    pairs = facts.elts if isinstance(facts, ast.Tuple) else []
    return tuple(
        pair.elts[0].value
        for pair in pairs
        if isinstance(pair, ast.Tuple)
        and isinstance(pair.elts[0], ast.Constant)
        and isinstance(pair.elts[0].value, str)
    )
