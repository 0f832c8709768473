"""The writer's child processes: one that lists, one that seals. They wake the loop, and hold the store's lock.

Knows how to start a child, read its lines as they come, and end it; not what the lines mean.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Sequence

from cfbus.runtime import Loop

READ_BYTES = 1 << 16


class Chore:
    """A running child. ``on_line`` gets each line of its output, ``on_end`` its exit code and its stderr.

    Its input is ``stdin`` and then, if there is to be ``more``, what it is told.
    """

    def __init__(
        self,
        loop: Loop,
        command: Sequence[str],
        lock_fd: int,
        on_line: Callable[[bytes], None],
        on_end: Callable[[int, str], None],
        stdin: bytes = b"",
        *,
        more: bool = False,
    ) -> None:
        self._loop = loop
        self._on_line = on_line
        self._on_end = on_end
        self._rest = b""
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(lock_fd,),
            start_new_session=True,
        )
        assert self._child.stdout is not None
        self.tell(stdin)
        if not more:
            self._close_input()
        self._fd = self._child.stdout.fileno()
        loop.watch(self._fd, self._readable)

    def tell(self, data: bytes) -> None:
        """Write to its input. One that is dead already is told of like any other end."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(data)
            self._child.stdin.flush()

    def _close_input(self) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def _readable(self) -> None:
        data = os.read(self._fd, READ_BYTES)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line)
        if data:
            return
        self._loop.unwatch(self._fd)
        self._close_input()
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        with self._child.stdout, self._child.stderr:
            said = self._child.stderr.read().decode(errors="replace").strip()
            self._on_end(self._child.wait(), said)

    def end(self) -> None:
        """Kill it; what it had not finished will be done again."""
        self._loop.unwatch(self._fd)
        self._child.kill()
        self._child.wait()
        self._close_input()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()
