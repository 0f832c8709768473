"""The number of files and the age of what is not in one, on a simulated clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.core.pace import GROWTH, SMALL_SHARE, Pace

MIB = 1 << 20
HOUR, DAY = 3600.0, 86400.0
COMPRESSED = 5
"""The journal's bytes for each byte of parquet."""


@dataclass(frozen=True)
class Outcome:
    segments: int
    stalest: float
    """The longest time between a caption and its segment, in the last tenth of the run."""


def simulated(
    seconds: float, bytes_per_second: float, run: float, *, seal_mib: int = 256, restarts: float = 0
) -> Outcome:
    """Results come steadily; a segment is sealed for its age or its size, and at each restart."""
    now, stalest = 0.0, 0.0
    sizes: list[int] = []
    pace = Pace(seconds, seal_mib * MIB, sizes)
    next_restart = restarts or math.inf
    while now < run:
        full = seal_mib * MIB / bytes_per_second
        open_for = min(pace.patience, full, max(next_restart - now, 1.0))
        now += open_for
        sizes.append(int(open_for * bytes_per_second / COMPRESSED))
        pace.sealed(sizes[-1])
        if now >= next_restart:
            next_restart += restarts
            pace = Pace(seconds, seal_mib * MIB, sizes)
        if now > 0.9 * run:
            stalest = max(stalest, open_for)
    return Outcome(len(sizes), stalest)


@pytest.mark.parametrize("seconds", [1, 5, 10, 600])
@pytest.mark.parametrize("run", [HOUR, DAY, 30 * DAY, 365 * DAY])
@pytest.mark.parametrize("restarts", [0.0, DAY])
def test_a_slow_run_has_few_files_and_they_are_fresh_for_its_age(seconds: float, run: float, restarts: float) -> None:
    outcome = simulated(seconds, 100, run, restarts=restarts)
    predicted = math.sqrt(2 * GROWTH * run / seconds)
    assert outcome.segments <= predicted + run / (restarts or math.inf) + 1
    assert outcome.stalest <= seconds + 2.2 * run / max(1, outcome.segments - GROWTH)


@pytest.mark.parametrize(("seconds", "most"), [(1, 450), (5, 190), (10, 125), (600, 7)])
def test_an_hour_leaves_hundreds_of_files_at_most(seconds: float, most: int) -> None:
    for bytes_per_second in (10, 1000, 100_000):
        assert simulated(seconds, bytes_per_second, HOUR).segments <= most


@pytest.mark.parametrize("bytes_per_second", [300_000, 1_000_000, 3_000_000, 20_000_000])
def test_segments_that_are_worth_a_file_are_not_slowed_down_further(bytes_per_second: float) -> None:
    """The time grows until segments are large enough, and there it stays."""
    outcome = simulated(5, bytes_per_second, 30 * DAY)
    worth = 256 * MIB / SMALL_SHARE * COMPRESSED / bytes_per_second
    assert outcome.stalest <= max(5, 1.05 * worth)
    written = bytes_per_second * 30 * DAY / COMPRESSED
    assert outcome.segments <= GROWTH * max(1, worth / 5) + written / (256 * MIB / SMALL_SHARE)


@given(st.integers(1, 7 * 86400), st.integers(1, 16384), st.lists(st.integers(0, 1 << 34), max_size=50))
def test_never_sooner_than_configured_and_never_shorter_by_one_more(seconds: int, mib: int, sizes: list[int]) -> None:
    pace = Pace(seconds, mib * MIB, [])
    assert pace.patience == seconds
    for size in sizes:
        before = pace.patience
        pace.sealed(size)
        assert pace.patience >= before
        assert (pace.patience > before) == (size < mib * MIB / SMALL_SHARE)
    assert pace.patience == Pace(seconds, mib * MIB, sizes).patience
    assert Pace(seconds, mib * MIB, []).patience == seconds
