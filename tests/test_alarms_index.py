"""Every alarm has a line in docs/operations.md that says what to do, and every line there has an alarm."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfbus.core.alarms import ALARMS, alarms
from cfbus.core.snapshot import Status

ROOT = Path(__file__).resolve().parents[1]
LOUD = ("warning", "error")


def status(**changed: object) -> Status:
    """A run that goes well."""
    fields: dict[str, object] = {}
    for name, field in Status.model_fields.items():
        fields[name] = {str: "", int: 0, float: 0.0, bool: False}[field.annotation]  # type: ignore[index]
    return Status.model_validate(fields | {"writer": "open", "workers": 2, "items": 9} | changed)


def logged() -> Iterator[str]:
    """The events that are logged as warnings or errors, by their literal names."""
    for folder in ("cfbus", "daemons", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                    continue
                event = node.args[0]
                if node.func.attr in LOUD and isinstance(event, ast.Constant) and isinstance(event.value, str):
                    yield event.value


def indexed() -> tuple[set[str], set[str]]:
    """The names in the first column of the two tables."""
    page = (ROOT / "docs" / "operations.md").read_text()
    tables = page[page.index("## Alarms") :].split("\n\n|")[1:]
    names = [set(re.findall(r"`([^`]+)`", "".join(re.findall(r"(?m)^\| (`[^|]*)\|", f"|{table}")))) for table in tables]
    return names[0], names[1]


def test_every_alarm_is_explained_and_nothing_else() -> None:
    told, written = indexed()
    assert told == {alarm.name for alarm, _ in ALARMS}
    assert written == set(logged())


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"writer": "away"}, "writer-away"),
        ({"writer": "full"}, "writer-full"),
        ({"writer": "disk-full"}, "writer-disk-full"),
        ({"problem": "No such folder."}, "task-failed"),
        ({"workers": 0}, "no-workers"),
        ({"workers_starved": 2}, "all-starved"),
        ({"why": "slots-without-prompt"}, "slots-without-prompt"),
        ({"paused": True}, "paused"),
    ],
)
def test_each_alarm_rings_for_its_reason_alone(changed: dict[str, object], name: str) -> None:
    assert [alarm.name for alarm in alarms(status(**changed))] == [name]


def test_a_run_that_goes_well_has_none() -> None:
    assert alarms(status()) == ()
    assert alarms(status(workers=0, finished=True)) == (), "who has nothing to do needs no workers"
    assert alarms(status(workers=0, listing=True)) == (), "there may be no work yet"
