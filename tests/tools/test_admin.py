"""What `cfbus-admin` makes of an answer: words for people, types for scripts, nothing hostile on the screen."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from snapshots import a_status

from cfbus.core.snapshot import Status
from cfbus.tools import admin, asking, init


def facts_of(status: Status) -> asking.Facts:
    """As the broker sends them."""
    return tuple((name, str(value)) for name, value in status.model_dump().items())


def test_a_status_survives_the_way_as_text() -> None:
    status = a_status(done=1234, rate=0.1, listing=True, paused=False, why="paused")
    assert admin.as_status(facts_of(status)) == status
    assert json.loads(admin.as_json(facts_of(status))) == status.model_dump()


def test_people_are_told_how_far_it_is() -> None:
    said = admin.as_text(facts_of(a_status(done=500, items=1000, rate=10.0, captions=900, dead_letters=3)))
    assert "500 of 1,000 images done, 10.0/s, 0:50 left, 3 failed" in said
    assert "problem" not in said
    assert "captions      900\n" in said
    assert "no room" in admin.as_text(facts_of(a_status(problem="no room")))


def test_a_broker_of_another_version_is_shown_as_it_speaks() -> None:
    facts = (("paused", "yes"), ("new_fact", "7"))
    assert admin.as_status(facts) is None
    assert admin.as_text(facts) == "paused    yes\nnew fact  7"
    assert json.loads(admin.as_json(facts)) == {"paused": True, "new_fact": "7"}


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        path = init.initialise(tmp_path / "bus", (), (f"admin.server={address}",))
        monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 0.5)
        said = CliRunner().invoke(admin.command, ["--config", str(path), "status"])
    assert said.exit_code == 75
    assert f"No broker answered at {address}" in said.output
    assert "Is it running" in said.output


def test_hostile_text_is_made_visible() -> None:
    said = admin.as_text(facts_of(a_status(dataset="a\x1b]0;b\nc", problem="\u202eevil")))
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert r"a\x1b]0;b\nc" in said
