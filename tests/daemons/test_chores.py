"""Children of the writer: their lines come in order, and however they end, it is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cfbus import runtime
from cfbus.daemons.chores import Chore
from cfbus.errors import EXIT_DONE

ENDS = {
    "import sys; print(sys.stdin.read()); print('b'); sys.stderr.write('said'); sys.exit(3)": ([b"x", b"b"], 3, "said"),
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": ([], -9, ""),
}


@pytest.mark.parametrize("program", ENDS)
def test_lines_and_ends_are_told(program: str, tmp_path: Path) -> None:
    lines, code, said = ENDS[program]
    assert run(program, b"x", tmp_path) == (lines, code, said)


def test_a_child_that_is_dead_before_it_has_read_anything_is_an_end_like_any_other(tmp_path: Path) -> None:
    # More than a pipe holds, so that it is written to until its reader is gone.
    assert run("pass", bytes(4 << 20), tmp_path) == ([], 0, "")


def run(program: str, stdin: bytes, folder: Path) -> tuple[list[bytes], int, str]:
    """What a child that runs this program says, and how it ends."""
    loop = runtime.Loop()
    lines: list[bytes] = []
    ends: list[tuple[int, str]] = []
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)

    def ended(code: int, said: str) -> None:
        ends.append((code, said))
        loop.stop(EXIT_DONE)

    Chore(loop, [sys.executable, "-c", program], lock, lines.append, ended, stdin=stdin)
    loop.run(lambda at: at + 1)
    os.close(lock)
    ((code, said),) = ends
    return lines, code, said
