"""A flush that fails: the writer ends at once, has acknowledged nothing of it, and a restart finds all as it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from chaos.nest import Nest
from chaos.points import counts, failed_at, spread
from chaos.tracing import FLUSHES, need_strace

POINTS = 8


@pytest.mark.timeout(1200)
def test_a_flush_that_fails_ends_the_writer(nest: Nest, tmp_path: Path) -> None:
    """It fails once only: whoever tries it again would get away with it, and the broker would know of more than there
    is, and stop."""
    need_strace()
    calls = counts("writer", nest, tmp_path / "counted")
    points = spread({kind: calls[kind] for kind in FLUSHES}, POINTS, random.SystemRandom())
    reached = [failed_at("writer", point, nest, tmp_path / str(point)) for point in points]
    assert sum(reached) >= len(points) // 2, list(zip(points, reached, strict=True))
