"""One engine at a time: replaced, put back as it was, given up; whatever happens, it is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from cfbus.config import Config
from cfbus.daemons import seat as module
from cfbus.daemons.seat import Blueprint, Opened, Replaced, Seat
from cfbus.engines.scripted import ScriptedEngine
from cfbus.errors import ConfigError, TryAgainError

NOWHERE: Mapping[str, str] = {}
PATIENCE = 30


class CountedEngine(ScriptedEngine):
    """Says when it is closed."""

    def __init__(self, opener: Opener) -> None:
        super().__init__(lambda outcome: None)
        self._opener = opener
        opener.open += 1
        opener.most_open = max(opener.most_open, opener.open)

    def close(self) -> None:
        super().close()
        self._opener.open -= 1


@dataclass
class Opener:
    """Opens engines; those of models in ``bad`` cannot be."""

    bad: set[str] = field(default_factory=set)
    open: int = 0
    most_open: int = 0
    opened: list[str] = field(default_factory=list)
    gpus: list[str | None] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, blueprint: Blueprint) -> Opened:
        self.gpus.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        os.environ["CUDA_VISIBLE_DEVICES"] = "7"
        model = blueprint.settings.vllm.model
        self.opened.append(model)
        assert self.go.wait(PATIENCE)
        if model in self.bad:
            raise ConfigError(f"{model} is too large.", "Take a smaller one.")
        return CountedEngine(self), None


def of(model: str) -> Blueprint:
    return Blueprint(Config.model_validate({"vllm": {"model": model}}), NOWHERE)


class Woken:
    """Awaits what the seat wakes for."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> None:
        self._event.set()

    def result(self, seat: Seat) -> Replaced:
        assert self._event.wait(PATIENCE)
        self._event.clear()
        result = seat.replaced()
        assert result is not None
        assert seat.replaced() is None, "it was told twice"
        return result


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(module, "BACK_OFF_SECONDS", (0.0, 0.0))
    made = Opener()
    made.go.set()
    return made


def test_an_engine_is_replaced_and_there_is_one_at_a_time(opener: Opener) -> None:
    woken = Woken()
    seat = Seat(opener, of("a"), woken)
    first = seat.engine
    seat.replace(of("b"))
    result = woken.result(seat)
    assert result.problem is None
    assert seat.engine not in (None, first)
    assert seat.built.settings.vllm.model == "b"
    assert opener.most_open == 1
    seat.close()
    assert opener.open == 0


def test_there_is_none_while_one_is_replaced(opener: Opener) -> None:
    woken = Woken()
    seat = Seat(opener, of("a"), woken)
    opener.go.clear()
    seat.replace(of("b"))
    assert not seat.engine
    assert not seat.replaced()
    opener.go.set()
    woken.result(seat)
    assert seat.engine
    seat.close()


def test_each_finds_the_gpus_that_the_first_one_found(opener: Opener) -> None:
    woken = Woken()
    seat = Seat(opener, of("a"), woken)
    seat.replace(of("b"))
    woken.result(seat)
    assert opener.gpus == ["3,4", "3,4"]
    seat.close()


def test_one_that_cannot_be_opened_gives_way_to_one_as_before(opener: Opener) -> None:
    woken = Woken()
    opener.bad = {"b"}
    seat = Seat(opener, of("a"), woken)
    seat.replace(of("b"))
    result = woken.result(seat)
    assert result.problem is not None
    assert result.problem.message == "b is too large."
    assert seat.engine is not None
    assert seat.built.settings.vllm.model == "a"
    assert opener.opened == ["a", "b", "a"]
    seat.close()
    assert opener.open == 0


def test_one_as_before_is_tried_some_times_and_then_given_up(opener: Opener) -> None:
    woken = Woken()
    seat = Seat(opener, of("a"), woken)
    opener.bad = {"a", "b"}
    seat.replace(of("b"))
    with pytest.raises(TryAgainError, match=r"b is too large.*a is too large"):
        woken.result(seat)
    assert opener.opened == ["a", "b", "a", "a"]
    seat.close()


def test_a_bug_in_an_engine_is_not_hidden(opener: Opener) -> None:
    woken = Woken()
    seat = Seat(opener, of("a"), woken)
    seat.replace(None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        woken.result(seat)
    seat.close()


def test_what_is_opened_too_late_is_closed_too(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker ends while a model is loaded, and does not wait for it for long."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    woken = Woken()
    seat = Seat(opener, of("a"), woken)
    opener.go.clear()
    seat.replace(of("b"))
    seat.close()
    opener.go.set()
    thread = seat._thread
    assert thread is not None
    thread.join(PATIENCE)
    assert opener.open == 0
