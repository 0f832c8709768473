"""What `make bench-quick` takes for a loss: ratios, and only those that lost more than half."""

from __future__ import annotations

import json

import pytest
from benchmarks import quick
from benchmarks.running import BenchError


def test_a_ratio_that_lost_less_than_half_passes() -> None:
    assert quick.dropped({"durable": 0.21, "sealed": 0.9}, {"durable": 0.4, "sealed": 0.3}) == []


def test_a_ratio_that_lost_more_than_half_is_named_with_both_values() -> None:
    (problem,) = quick.dropped({"durable": 0.19, "sealed": 0.3}, {"durable": 0.4, "sealed": 0.3})
    assert problem == "durable: 19.0%, and 40.0% is stored"


def test_of_two_measurements_the_better_counts() -> None:
    assert quick.better({"durable": 0.19, "sealed": 0.3}, {"durable": 0.4, "sealed": 0.2}) == {
        "durable": 0.4,
        "sealed": 0.3,
    }


@pytest.mark.parametrize("stored", [{}, {"sealed": 0.3}, {"durable": 0.4, "sealed": 0.3}])
def test_ratios_that_were_not_measured_or_not_stored_are_an_error(stored: dict[str, float]) -> None:
    with pytest.raises(BenchError, match="--store"):
        quick.dropped({"durable": 0.4}, stored)


def test_the_stored_ratios_are_shares_of_a_limit() -> None:
    stored = json.loads(quick.STORED.read_text("utf-8"))
    assert stored
    assert all(0 < ratio < 1.5 for ratio in stored.values())
