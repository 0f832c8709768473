"""A nursery for each test: whatever a test starts has ended after it, or the test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes.support import Nursery


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """Where the test's processes are started."""
    folder = tmp_path / "said"
    folder.mkdir()
    made = Nursery(folder)
    yield made
    made.close()
