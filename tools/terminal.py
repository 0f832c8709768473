"""A terminal for a full screen: keys as they are pressed, and everything put back however it ends.

Knows escape sequences and termios, nothing of what is shown.
"""

from __future__ import annotations

import os
import re
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

_SEQUENCES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b": "escape", "\r": "enter", "\n": "enter",
    "\t": "tab", "\x7f": "backspace", "\x08": "backspace",
}  # fmt: skip
_KEY = re.compile(r"\x1b\[[0-9;]*[ -/]*[@-~]|\x1bO.|\x1b|.", re.DOTALL)
READ_BYTES = 256


def keys_in(text: str) -> list[str]:
    """The keys in what a terminal sent: ``up``, ``enter``, or the character itself; sequences of others are nothing."""
    pressed = [_SEQUENCES.get(each, each) for each in _KEY.findall(text)]
    return [key for key in pressed if not key.startswith("\x1b")]


@contextmanager
def keyboard(fd: int) -> Iterator[None]:
    """Keys come one by one and are not shown; after it, the terminal is as it was."""
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def pressed(fd: int) -> list[str]:
    """What was pressed, when ``fd`` can be read. Raises EOFError when the terminal is gone."""
    data = os.read(fd, READ_BYTES)
    if not data:
        raise EOFError
    return keys_in(data.decode("utf-8", "ignore"))
