"""Where a command prints for people. A full disk under a redirected output must not end a run that can go on.

Knows streams, not what is printed. A reader that is gone still ends the command, as everywhere.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import click
from rich.console import Console

from cfbus.errors import TryAgainError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _room_or_not() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise


class Patient:
    """A text stream whose writes may find no room; what did not fit may come later, or never."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with _room_or_not():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with _room_or_not():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def answer(text: str) -> None:
    """Print what was asked for. Raises ``TryAgainError``: an answer that was lost is no success."""
    try:
        click.echo(text)
    except OSError as error:
        raise TryAgainError(f"The output could not be written: {error.strerror}.") from error


def screen(stream: IO[str], *, wrap: bool = False) -> Console:
    """A console on ``stream`` that takes brackets for brackets.

    Lines are only broken where ``wrap`` says so: paths are to be copied.
    """
    return Console(file=cast(IO[str], Patient(stream)), highlight=False, markup=False, soft_wrap=not wrap)
