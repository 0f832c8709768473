"""For the tests of power cuts: whether strace can be used here, and a folder in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from crash.run import work_folder


@lru_cache
def strace_problem() -> str:
    """Why nothing can be recorded here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian: apt install strace)"
    tried = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "true"], capture_output=True, text=True, check=False
    )
    return f"strace does not work here: {tried.stderr.strip()[-200:]}" if tried.returncode else ""


@pytest.fixture(scope="session")
def recorder() -> None:
    """Skips the test where nothing can be recorded; where CI=true that is a failure."""
    problem = strace_problem()
    if problem and os.environ.get("CI") == "true":
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder for images."""
    with work_folder() as folder:
        yield folder
