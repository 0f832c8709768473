"""The writer's child that seals: one closed journal file after another, for as long as there are some to seal.

Half of a second of the processor goes by before a new Python can seal anything, so a child that has sealed stays for
the next file, and is ended when none came for a while.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from cfbus import runtime
from cfbus.daemons.chores import Chore
from cfbus.store.folder import Store
from cfbus.store.journal import JournalFile
from cfbus.store.seal import Sealed, seal_command, seal_order

IDLE_SECONDS = 30.0
"""So long a child without work keeps its memory."""


class Sealer:
    """``sealed`` gets what became of a file; ``failed`` how the child ended that could not seal it."""

    def __init__(
        self,
        loop: runtime.Loop,
        store: Store,
        sealed: Callable[[JournalFile, Sealed], None],
        failed: Callable[[JournalFile, int, str], None],
    ) -> None:
        self._loop = loop
        self._store = store
        self._sealed = sealed
        self._failed = failed
        self._child: Chore | None = None
        self._file: JournalFile | None = None
        self._idle_since = 0.0

    @property
    def busy(self) -> bool:
        """Whether a file is being sealed."""
        return self._file is not None

    def begin(self, file: JournalFile) -> None:
        """Seal this one; the one before it has been told of."""
        assert not self.busy
        self._file = file
        if self._child is None:
            assert self._store.lock_fd is not None
            command = seal_command(self._store.root)
            self._child = Chore(self._loop, command, self._store.lock_fd, self._said, self._ended, more=True)
        self._child.tell(seal_order(file.path))

    def tick(self, at: float) -> float:
        """End a child that has had nothing to do; when to look again."""
        if self._child is None or self.busy:
            return float("inf")
        if at >= self._idle_since + IDLE_SECONDS:
            self.end()
            return float("inf")
        return self._idle_since + IDLE_SECONDS

    def end(self) -> None:
        """Kill the child; the journal keeps what it had not finished."""
        if self._child is not None:
            self._child.end()
        self._child = self._file = None

    def _said(self, line: bytes) -> None:
        fields = json.loads(line)
        file, self._file = self._file, None
        assert file is not None
        self._idle_since = runtime.now()
        self._sealed(file, Sealed(**{**fields, "files": tuple(fields["files"])}))

    def _ended(self, exit_code: int, said: str) -> None:
        self._child = None
        file, self._file = self._file, None
        if file is not None:  # one that is killed while it waits for work is not missed
            self._failed(file, exit_code, said)
