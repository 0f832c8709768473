"""Every alarm has a line in docs/operations.md that says what to do, and every line there has an alarm."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfbus.core.alarms import ALARMS, alarms
from cfbus.core.snapshot import Status

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
events = importlib.import_module("events")
wording = importlib.import_module("wording")


def status(**changed: object) -> Status:
    """A run that goes well."""
    fields: dict[str, object] = {}
    for name, field in Status.model_fields.items():
        fields[name] = {str: "", int: 0, float: 0.0, bool: False}[field.annotation]  # type: ignore[index]
    return Status.model_validate(fields | {"writer": "open", "workers": 2, "items": 9} | changed)


def logged() -> Iterator[str]:
    """The events that are logged as warnings or errors."""
    yield from (event.name for event in events.events() if event.level in events.LOUD)


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


# What is logged at all


def found(source: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(each.name, each.level, each.values) for each in events._of("daemons/gpu.py", ast.parse(source))]


def test_an_event_is_found_where_it_is_logged_with_what_it_carries() -> None:
    assert found('self._log.error("a.b", why=1, exc_info=True)') == [("a.b", "error", ("why",))]
    assert found('logs.get_logger().info("a.b" if lost else "a.c", **more)') == [
        ("a.b", "info", ()),
        ("a.c", "info", ()),
    ]
    facts = 'facts = (("x", 1),)\nNote("a.b", facts)\nfacts = (("y", 1),)\nNote("a.c", facts)\nNote("a.d")'
    assert found(facts) == [("a.b", "info", ("x",)), ("a.c", "info", ("y",)), ("a.d", "info", ())]
    assert found('registry.log(who, "add-key")\nself._log.info(event, **dict(facts))') == []


@pytest.mark.parametrize("name", ["f'a.{b}'", "name", "NAMES[0]", "'a' + b"])
def test_an_event_whose_name_is_made_while_it_runs_is_an_error(name: str) -> None:
    with pytest.raises(wording.PageError, match=r"daemons/gpu\.py:1: an event has the name"):
        found(f"self._log.warning({name})")


def test_all_ways_to_lose_the_broker_are_among_the_alarms() -> None:
    from cfbus.bus.following import Connection

    told = {way for way in Connection if f"bus.{way.value}" in set(logged())}
    ends = {Connection.REFUSED, Connection.CLOSED}
    assert set(Connection) - told == {Connection.CONNECTED, Connection.HANDSHAKE_OK} | ends


def test_names_are_of_one_form() -> None:
    assert [each.name for each in events.events() if not re.fullmatch(r"bug|[a-z]+\.([a-z_-]+|NAME)", each.name)] == []
