"""kill -9 at the N-th system call of each kind: a sample of what `make chaos` does at every one."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from chaos.nest import Nest
from chaos.points import VICTIMS, counts, killed_at, spread
from chaos.tracing import KINDS, need_strace

POINTS = 30
"""Of each victim; two make the 60 of `make test`."""
PARTS = 2


@cache
def calls(victim: str) -> Counter[str]:
    """Counted once in a process."""
    with TemporaryDirectory() as folder, Nest(Path(folder) / "said") as nest:
        return counts(victim, nest, Path(folder) / "bus")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_at_a_system_call(victim: str, part: int, nest: Nest, tmp_path: Path) -> None:
    need_strace()
    found = calls(victim)
    if victim == "writer":
        assert set(found) == set(KINDS)
    points = spread(found, POINTS, random.SystemRandom())[part::PARTS]
    reached = [killed_at(victim, point, nest, tmp_path / str(point)) for point in points]
    # Of the last ones of a run some may not come again: on a busy machine more is in each commit, and calls are fewer.
    assert sum(reached) >= len(points) // 2, list(zip(points, reached, strict=True))


def test_points_are_spread_over_all_kinds_and_the_whole_run() -> None:
    found = Counter(fsync=100, rename=2, unlink=50)
    points = spread(found, 12, random.Random(1))
    by_kind = {kind: [point.number for point in points if point.kind == kind] for kind in found}
    assert [(number - 1) // 20 for number in by_kind["fsync"]] == list(range(5))
    assert by_kind["rename"] == [1, 2]
    assert [(number - 1) // 10 for number in by_kind["unlink"]] == list(range(5))
    assert len(set(spread(found, 1000, random.Random(1)))) == 152
