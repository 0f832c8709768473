"""What is made of vLLM's own statistics, whatever of them a version has."""

from __future__ import annotations

from types import SimpleNamespace as Stats
from typing import Any

import pytest

from cfbus.bus.figures import EngineFigures
from cfbus.engines.vllm_figures import WINDOW_SECONDS, StepMeter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def scheduler(running: int = 3, waiting: int = 2, usage: object = 0.25, queries: int = 10, hits: int = 4) -> Stats:
    prefix = Stats(queries=queries, hits=hits)
    return Stats(
        num_running_reqs=running, num_waiting_reqs=waiting, num_skipped_waiting_reqs=1, kv_cache_usage=usage,
        prefix_cache_stats=prefix,
    )  # fmt: skip


def meter() -> tuple[StepMeter, Clock]:
    clock = Clock()
    made = StepMeter(clock)
    made.open(8)
    return made, clock


def test_steps_add_up_to_figures() -> None:
    made, clock = meter()
    clock.now += 10
    made.record(0, scheduler(), Stats(num_generation_tokens=30), Stats(queries=4, hits=1))
    made.record(0, scheduler(running=5, waiting=0, queries=10, hits=8), Stats(num_generation_tokens=20), None)
    made.record(0, None, None, None)
    assert made.figures(busy=True) == EngineFigures(
        running=5, waiting=1, level=8, kv_usage=0.25, prefix_hits=0.6, image_hits=0.25, tokens_per_second=5.0
    )


def test_nothing_runs_where_nobody_told_of_a_step_because_there_is_none() -> None:
    made, clock = meter()
    made.record(0, scheduler(), Stats(num_generation_tokens=30), None)
    clock.now += 2 * WINDOW_SECONDS
    assert made.figures(busy=False) == EngineFigures(level=8, kv_usage=0.0, tokens_per_second=0.0)


def test_several_engines_are_one() -> None:
    made, _ = meter()
    made.open(8)
    made.record(0, scheduler(usage=0.5), None, None)
    made.record(1, scheduler(usage=0.1), None, None)
    figures = made.figures(busy=True)
    assert (figures.running, figures.waiting, figures.level, figures.kv_usage) == (6, 6, 16, 0.5)


@pytest.mark.parametrize("odd", [None, "x", -1, True, [], float("nan"), 1 << 60])
def test_what_a_version_does_not_have_or_has_otherwise_is_not_known_and_never_an_error(odd: Any) -> None:
    clock = Clock()
    made = StepMeter(clock)
    made.open(odd)
    made.record(0, Stats(), Stats(), Stats())
    made.record(
        0,
        Stats(num_running_reqs=odd, kv_cache_usage=odd, prefix_cache_stats=odd),
        Stats(num_generation_tokens=odd),
        Stats(queries=odd, hits=odd),
    )
    clock.now += 5
    figures = made.figures(busy=True)
    assert EngineFigures.model_validate(figures.model_dump()) == figures
    assert figures.prefix_hits is figures.image_hits is figures.tokens_per_second is figures.level is None


def test_it_keeps_a_bounded_past() -> None:
    made, clock = meter()
    for _ in range(10 * WINDOW_SECONDS):
        clock.now += 1
        made.record(0, scheduler(), Stats(num_generation_tokens=7), None)
    tokens = made.figures(busy=True).tokens_per_second
    assert tokens is not None
    assert tokens == pytest.approx(7, rel=0.1)
    assert len(made._seconds) <= WINDOW_SECONDS + 1
