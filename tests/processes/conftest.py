"""A nursery for each test: whatever a test starts has ended after it, or the test fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes.support import Nursery
from processes.tmux import Tmux


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """Where the test's processes are started."""
    folder = tmp_path / "said"
    folder.mkdir()
    made = Nursery(folder)
    yield made
    made.close()


@pytest.fixture
def tmux() -> Iterator[Tmux]:
    """A terminal; without tmux the test is skipped."""
    if shutil.which("tmux") is None:
        assert os.environ.get("CI") != "true", "tmux is missing (Debian: apt install tmux)"
        pytest.skip("tmux is not here")
    terminal = Tmux()
    yield terminal
    terminal.close()
