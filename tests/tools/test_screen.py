"""Output that finds no room: it must not end a run, and a lost answer is no success."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from cfbus.errors import TryAgainError
from cfbus.tools.screen import answer, screen


class Failing(io.StringIO):
    """A stream whose writes fail with this error number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "so it is")


def test_a_full_disk_does_not_stop_what_prints() -> None:
    screen(Failing(errno.ENOSPC)).print("hello")


def test_a_disk_that_fails_does() -> None:
    with pytest.raises(OSError, match="so it is"):
        screen(Failing(errno.EIO)).print("hello")


def test_long_lines_are_kept_whole_unless_asked() -> None:
    path = "/a/rather/long/path" * 20
    kept, wrapped = io.StringIO(), io.StringIO()
    screen(kept).print(path)
    screen(wrapped, wrap=True).print(path)
    assert kept.getvalue() == path + "\n"
    assert wrapped.getvalue().count("\n") > 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_an_answer_that_is_lost_is_no_success(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(number))
    with pytest.raises(TryAgainError, match="could not be written"):
        answer("the answer")
