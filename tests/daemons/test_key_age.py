"""A key that ends soon is warned of: at each WELCOME, once a day, and not before its time."""

from __future__ import annotations

import time

import pytest
import structlog

from cfbus.bus import messages as m
from cfbus.daemons.key_age import AGAIN_SECONDS, KeyAge

DAY = 86_400.0
NOW = 1_800_000_000.0


def warned(age: KeyAge, at: float) -> list[float]:
    with structlog.testing.capture_logs() as lines:
        assert age.look(at) >= at
    return [line["days_left"] for line in lines if line["event"] == "key.ends-soon"]


def welcome(ends: float) -> m.Welcome:
    return m.Welcome(
        software="t", store_id=None, dataset="d", heartbeat_seconds=1.0, lease_seconds=1.0, window=0, generation=0,
        spec=None, key_expires=int(ends * 1e6),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _at_a_fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def test_two_weeks_before_and_once_a_day() -> None:
    age = KeyAge()
    assert warned(age, 0.0) == []
    age.told(welcome(NOW + 13.5 * DAY))
    assert warned(age, 10.0) == [13.5]
    assert warned(age, 11.0) == []
    assert warned(age, 10.0 + AGAIN_SECONDS) == [13.5]
    age.told(welcome(NOW + 13.5 * DAY))
    assert warned(age, 12.0 + AGAIN_SECONDS) == [13.5], "connected again, it is said again"


@pytest.mark.parametrize("ends", [NOW + 14.1 * DAY, 0.0])
def test_long_before_and_for_keys_without_end_nothing_is_said(ends: float) -> None:
    age = KeyAge()
    age.told(welcome(ends))
    assert warned(age, 10.0) == []


def test_one_that_should_be_over_is_told_as_none_left() -> None:
    age = KeyAge()
    age.told(welcome(NOW - DAY))
    assert warned(age, 10.0) == [0.0]
