"""How the answers about a run are shown: what a person reads first, what a script gets, nothing hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from cfbus.tools import admin, admin_run
from cfbus.tools.admin_asking import Where
from cfbus.tools.asking import Told

COLUMNS = ("at", "items", "pass", "what", "worker", "contributor", "name", "job")
LINE = ("1800000001000000", "0-8", "1", "leased", "ann-0", "ann", "Ann\x1b[2J of the Hill", "s0:0-8@1.1")
STARTED = "1800000000000000"


class Broker:
    """Says what the test wants."""

    project = "p"

    def __init__(self, told: Told) -> None:
        self._told = told

    def ask(self, verb: str, arguments: Mapping[str, str]) -> Told:
        assert (verb, dict(arguments)) == ("story", {"place": "s0"})
        return self._told


def story(monkeypatch: pytest.MonkeyPatch, told: Told, *flags: str) -> str:
    @contextmanager
    def asker_of(_where: Where) -> Iterator[Broker]:
        yield Broker(told)

    monkeypatch.setattr(admin_run, "asker_of", asker_of)
    done = CliRunner().invoke(admin.command, ["story", "s0", *flags])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("since", "first"),
    [
        (STARTED, "since the broker started at 2027-01-15T08:00:00Z"),
        (
            "1800000060000000",
            "since 2027-01-15T08:01:00Z; what was before is partly forgotten"
            " (the broker started at 2027-01-15T08:00:00Z)",
        ),
    ],
)
def test_a_story_says_first_since_when_it_remembers(monkeypatch: pytest.MonkeyPatch, since: str, first: str) -> None:
    told = Told((("since", since), ("started", STARTED), ("pass_1", "0 of 8 done")), COLUMNS, (LINE, LINE))
    lines = story(monkeypatch, told).splitlines()
    assert lines[0] == first
    assert lines[1].split() == list(COLUMNS)
    assert r"Ann\x1b[2J of the Hill" in lines[2]
    assert lines[-1] == "pass 1: 0 of 8 done"
    said = json.loads(story(monkeypatch, told, "--json"))
    assert said["started"] == "2027-01-15T08:00:00Z"
    assert said["rows"][0]["at"] == "2027-01-15T08:00:01Z"


def test_a_broker_that_does_not_say_since_when_is_shown_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert story(monkeypatch, Told((), COLUMNS, (LINE, LINE))).split()[0] == "at"
