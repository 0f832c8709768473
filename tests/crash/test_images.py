"""Power cuts at every point of a recorded run, and the product recovers from each."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from crash.cuts import Cut
from crash.run import all_cuts, try_cuts, work_folder

PARTS = {
    "store": 4,
    "compacted": 2,
    "applied": 2,
    "store-killed": 1,
    "store-killed-registry": 1,
    "store-cut-again": 1,
    "daemons": 1,
}
"""Into how many tests each workload is divided."""
SAMPLES = 3
"""Images of a cut with many outcomes; ``make sim`` takes more."""
MOST = {
    "compacted": 500,
    "applied": 400,
    "store-killed": 300,
    "store-killed-registry": 150,
    "store-cut-again": 300,
    "daemons": 400,
}
LEAST = {
    "store": 1000,
    "compacted": 500,
    "applied": 400,
    "store-killed": 300,
    "store-killed-registry": 150,
    "store-cut-again": 300,
    "daemons": 300,
}


@lru_cache
def cuts_of(name: str) -> list[Cut]:
    """The cuts of a workload, recorded once for each process that runs tests."""
    with work_folder() as folder:
        return all_cuts(name, folder, seed=0, samples=SAMPLES)[: MOST.get(name)]


@pytest.mark.usefixtures("recorder")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in PARTS.items() for part in range(parts)])
def test_nothing_acknowledged_is_lost(name: str, part: int, memory: Path) -> None:
    found = cuts_of(name)
    assert len(found) >= LEAST[name]
    mine = found[part :: PARTS[name]]
    failures = [str(failure) for failure in try_cuts(name, mine, memory)]
    assert not failures, f"{len(failures)} of {len(mine)}, such as: {failures[:3]}"
