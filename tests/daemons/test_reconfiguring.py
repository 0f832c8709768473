"""The broker's file is read in a thread: everybody who asks is answered once, and what is wrong changes nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from core.bus_rig import Rig, instance_of

from cfbus.bus import messages as m
from cfbus.config import SECTIONS, Config, Loaded
from cfbus.core import effects as e
from cfbus.daemons.reconfiguring import MAX_WAITING, Reconfiguring, settings_of
from cfbus.errors import ConfigError


def config(**sections: object) -> Config:
    values = dict.fromkeys(SECTIONS) | {"dataset": {"source": "scripted", "items": 9}} | sections
    return Config.model_validate(values, context={"folder": Path("/nowhere")})


@dataclass
class Reading:
    """A file that says what the test lets it say, when the test lets it."""

    file: Config | BaseException = field(default_factory=config)
    may: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    reads: int = 0
    taken: list[Config] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rig = Rig()
        own = settings_of(config())
        self.rig.broker.configuring.change(own, self.rig.now)
        self.began = self.rig.broker.rules.generation
        self.it = Reconfiguring(self._load, config(), self.woken.set, self.taken.append)
        self.may.set()

    def _load(self) -> Loaded:
        self.reads += 1
        assert self.may.wait(30)
        if isinstance(self.file, BaseException):
            raise self.file
        return Loaded(self.file, None, {})

    def ask(self, verb: str) -> list[e.Effect]:
        request = m.Admin(request=instance_of(verb), verb=verb)
        return self.it.ask(e.AskConfig(self.rig.peer("admin"), "admin", request))

    def turn(self) -> list[e.Effect]:
        return self.it.turn(self.rig.broker, self.rig.now)

    def settled(self) -> list[e.Effect]:
        assert self.woken.wait(30)
        self.woken.clear()
        return self.turn()

    def changed(self) -> bool:
        return self.rig.broker.rules.generation != self.began or bool(self.taken)


@pytest.fixture
def reading() -> Reading:
    return Reading()


def replies(effects: list[e.Effect]) -> list[m.Reply]:
    return [each.message for each in effects if isinstance(each, e.Send) and isinstance(each.message, m.Reply)]


def test_all_who_ask_while_it_is_read_are_answered_by_the_next_reading(reading: Reading) -> None:
    reading.may.clear()
    reading.ask("reload")
    assert reading.turn() == [], "the loop waited"
    for _ in range(3):
        reading.ask("reload")
    reading.it.hangup()
    reading.may.set()
    assert len(replies(reading.settled())) == 1
    assert len(replies(reading.settled())) == 3
    assert reading.reads == 2


def test_who_closes_waits_for_what_is_read(reading: Reading) -> None:
    reading.it.close()
    reading.may.clear()
    reading.ask("reload")
    reading.turn()
    closing = threading.Thread(target=reading.it.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    reading.may.set()
    closing.join(60)
    assert reading.woken.is_set(), "the process may end while it is read"


def test_to_compare_is_not_to_change(reading: Reading) -> None:
    reading.file = config(broker={"chunk_size": 7})
    reading.ask("config-diff")
    reading.turn()
    (reply,) = replies(reading.settled())
    assert [row[:2] for row in reply.rows] == [("broker.chunk_size", "live")]
    assert not reading.changed()
    reading.ask("reload")
    reading.turn()
    assert replies(reading.settled())[0].rows == reply.rows
    assert reading.changed()
    assert reading.rig.broker.rules.chunk_size == 7


def test_limits_are_live_and_reach_core_and_shell(reading: Reading) -> None:
    reading.file = config(broker={"limits": {"leases": 7, "connections": 5, "mib_per_second": 2}})
    reading.ask("reload")
    reading.turn()
    (reply,) = replies(reading.settled())
    assert {row[0]: row[1:4] for row in reply.rows} == {
        "broker.limits.connections": ("live", "256", "5"),
        "broker.limits.leases": ("live", "8192", "7"),
        "broker.limits.mib_per_second": ("live", "512", "2"),
    }
    (taken,) = reading.taken
    assert reading.rig.broker.rules.limits == settings_of(taken).limits
    assert settings_of(taken).limits.bytes_per_second == 2 << 20
    assert reading.rig.broker.rules.leases_per_key == 7


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (ConfigError("x.yaml:3: no such key"), "x.yaml:3: no such key Nothing has changed."),
        (config(broker={"chunk_size": 7, "port": 9}), "broker.port cannot change while the broker runs"),
        (config(captions={"slots": {"other": "x"}}), "captions.slots.caption cannot go"),
    ],
)
def test_what_is_wrong_changes_nothing_and_is_told(reading: Reading, file: Config | ConfigError, why: str) -> None:
    reading.file = file
    reading.ask("reload")
    reading.turn()
    effects = reading.settled()
    (reply,) = replies(effects)
    assert why in reply.problem
    assert not reading.changed()
    assert [each.outcome[:7] for each in effects if isinstance(each, e.NoteCall)] == ["refused"]


def test_a_bug_in_reading_is_answered_too(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda told: None)
    reading.file = KeyError("x")
    reading.ask("reload")
    reading.turn()
    (reply,) = replies(reading.settled())
    assert "a bug" in reply.problem
    reading.file = config()
    reading.ask("reload")
    reading.turn()
    assert not replies(reading.settled())[0].problem, "one bug ends all reloads"


def test_too_many_questions_are_refused(reading: Reading) -> None:
    reading.may.clear()
    reading.ask("reload")
    reading.turn()
    for _ in range(MAX_WAITING):
        assert reading.ask("reload") == []
    (reply,) = replies(reading.ask("reload"))
    assert "Too many" in reply.problem
    reading.may.set()
    reading.settled()
    assert len(replies(reading.settled())) == MAX_WAITING


def test_what_holds_is_shown_at_once(reading: Reading) -> None:
    (reply,) = replies(reading.ask("config-show"))
    assert ("broker.chunk_size", "1000") in reply.rows
    assert reading.reads == 0
