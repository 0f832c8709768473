"""Power cuts at every point of a recorded run, and the product recovers from each."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash.cuts import Cut
from crash.run import all_cuts, try_cuts, work_folder

PARTS = 4
SAMPLES = {"store": 3}
"""Images of a cut with many outcomes; ``make sim`` takes more."""
LEAST = {"store": 1000}


@pytest.fixture(scope="session")
def cuts_of(recorder: None) -> dict[str, list[Cut]]:
    """The cuts of each workload, recorded once for each process that runs tests."""
    found = {}
    for name, samples in SAMPLES.items():
        with work_folder() as folder:
            found[name] = all_cuts(name, folder, seed=0, samples=samples)
    return found


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_acknowledged_is_lost(name: str, part: int, cuts_of: dict[str, list[Cut]], memory: Path) -> None:
    found = cuts_of[name]
    assert len(found) >= LEAST[name]
    failures = [str(failure) for failure in try_cuts(found[part::PARTS], memory)]
    assert not failures, f"{len(failures)} of {len(found[part::PARTS])}, such as: {failures[:3]}"
