"""What a SIGHUP sets off: all or nothing of a file, engines after what is leased, and back when one cannot be had."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import encode_table
from cfbus.config import SECTIONS, Config, Loaded
from cfbus.core.effects import Effect, Send
from cfbus.core.outcome import Caption, EngineFacts, Outcome
from cfbus.core.worker import Worker, WorkerRules
from cfbus.daemons import seat as seats
from cfbus.daemons.reloading import FINISH_SECONDS, Reloading
from cfbus.daemons.seat import Blueprint, Opened, Replaced, Seat
from cfbus.engines.scripted import ScriptedEngine
from cfbus.errors import ConfigError

LEASE = "a" * 16
SPEC = m.Spec(
    hash="e" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=(m.Slot(name="a", prompt="p", prompt_id="p"),)
)


def config(**sections: dict[str, Any]) -> Config:
    sections = {"captions": {"engine": "vllm"}, "vllm": {"model": "a"}} | sections
    return Config.model_validate(dict.fromkeys(SECTIONS) | sections)


@dataclass
class Rig:
    """A worker with two of eight items in flight, and a file that says what the test lets it say."""

    file: Config | ConfigError = field(default_factory=config)
    bad: str = ""
    taken: list[int] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    woken: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.core = Worker(WorkerRules("b" * 16, "ann", 4), EngineFacts("x", "y"), 0.0)
        self.core.connected(0.0)
        welcome = m.Welcome(
            software="t", store_id=None, dataset="d", heartbeat_seconds=2.0, lease_seconds=10.0, window=1 << 20,
            generation=1, spec=SPEC, lost=(),
        )  # fmt: skip
        grant = m.Grant(
            lease=LEASE, pass_number=1, shard=0, shard_name="s0", start=0, end=8, done=(), slots=("a",), backup=False,
            ttl=10.0, window=1 << 20,
        )  # fmt: skip
        self.core.handle(welcome, b"", 0.0)
        self.core.handle(grant, encode_table(build("listing", 8, {"key": ["k"] * 8, "locator": [b""] * 8})), 0.0)
        self.core.next_items(2)
        self.seat = Seat(self._open, Blueprint(config(), {}), self.woken.set)
        self.reloading = Reloading(self._load, config(), self.seat, lambda loaded: None, self._take)

    def _open(self, blueprint: Blueprint) -> Opened:
        self.opened.append(blueprint.settings.vllm.model)
        if self.opened[-1] == self.bad:
            raise ConfigError("It is too large.")
        return ScriptedEngine(lambda outcome: None), None

    def _load(self) -> Loaded:
        if isinstance(self.file, ConfigError):
            raise self.file
        return Loaded(self.file, None, {})

    def _take(self, settings: Config) -> None:
        self.taken.append(settings.worker.concurrency)

    def hangup(self, file: Config | ConfigError, at: float = 1.0) -> list[Effect]:
        self.file = file
        self.reloading.ask()
        return self.turn(at)

    def turn(self, at: float) -> list[Effect]:
        effects, replaced = self.reloading.turn(self.core, at)
        assert replaced is None
        return effects

    def finish(self, *indices: int) -> None:
        self.core.outcomes([Outcome(LEASE, index, (Caption("x"),)) for index in indices], 1.0)

    def replaced(self) -> Replaced:
        assert self.woken.wait(30)
        self.woken.clear()
        _, replaced = self.reloading.turn(self.core, 2.0)
        assert replaced is not None
        return replaced


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(seats, "BACK_OFF_SECONDS", (0.0,))
    return Rig()


def test_what_is_live_is_taken_at_once(rig: Rig) -> None:
    assert rig.hangup(config(worker={"concurrency": 9})) == []
    assert rig.taken == [9]
    assert not rig.reloading.holds
    assert not rig.core.on_hold


@pytest.mark.parametrize(
    "file", [ConfigError("x.yaml:3: no such key"), config(worker={"concurrency": 9, "name": "somebody else"})]
)
def test_a_file_that_cannot_be_taken_whole_is_not_taken_at_all(rig: Rig, file: Config | ConfigError) -> None:
    rig.hangup(file)
    assert not rig.taken
    assert not rig.reloading.holds


def test_an_engine_is_replaced_when_all_that_is_leased_is_done(rig: Rig) -> None:
    rig.hangup(config(vllm={"model": "b"}))
    assert rig.reloading.holds
    assert rig.core.on_hold
    rig.finish(0, 1)
    rig.turn(1.5)
    assert rig.opened == ["a"], "there is still something to do"
    rig.core.next_items(6)
    rig.finish(*range(2, 8))
    rig.turn(1.6)
    assert rig.replaced().problem is None
    assert rig.opened == ["a", "b"]
    assert not rig.reloading.holds


def test_what_takes_too_long_is_handed_back(rig: Rig) -> None:
    rig.hangup(config(vllm={"model": "b"}), at=1.0)
    assert rig.reloading.next_deadline() == 1.0 + FINISH_SECONDS
    effects = rig.turn(1.0 + FINISH_SECONDS)
    (release,) = [each.message for each in effects if isinstance(each, Send) and isinstance(each.message, m.Release)]
    assert release.ranges == ((2, 8),)
    assert rig.reloading.next_deadline() == float("inf"), "it would never sleep again"
    assert rig.opened == ["a"]
    rig.finish(0, 1)
    rig.turn(2.0 + FINISH_SECONDS)
    assert rig.replaced().problem is None


def test_a_file_that_is_put_back_in_time_replaces_nothing(rig: Rig) -> None:
    rig.hangup(config(vllm={"model": "b"}))
    rig.hangup(config())
    assert not rig.reloading.holds
    rig.core.drain(1.0, at_once=True)
    rig.turn(3.0)
    assert rig.opened == ["a"]


def test_one_that_cannot_be_had_is_tried_again_by_the_same_file(rig: Rig) -> None:
    rig.bad = "b"
    rig.core.next_items(6)
    rig.finish(*range(8))
    rig.hangup(config(vllm={"model": "b"}))
    problem = rig.replaced().problem
    assert problem is not None
    assert rig.opened == ["a", "b", "a"]
    rig.bad = ""
    rig.hangup(config(vllm={"model": "b"}))
    assert rig.replaced().problem is None
    assert rig.opened == ["a", "b", "a", "b"]


def test_a_worker_that_drains_begins_nothing_new(rig: Rig) -> None:
    rig.core.drain(1.0, at_once=True)
    rig.hangup(config(vllm={"model": "b"}, worker={"concurrency": 9}))
    assert not rig.taken
    assert rig.opened == ["a"]
