"""The bench for each test: whatever was opened or started on it is gone after the test, or the test fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bus_harness import Bench, quick_bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A broker's ports."""
    yield from quick_bench(monkeypatch)
