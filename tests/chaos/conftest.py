"""A nest for each test: whatever it starts has ended after it, even if the test is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.nest import Nest


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    """Where the test's daemons are started."""
    with Nest(tmp_path / "said") as made:
        yield made
