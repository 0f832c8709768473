"""The writer's listing of its source, by a child process, shard by shard into the manifest.

Knows the child and the manifest; what is told of new shards, and of the task's end, is somebody else's. Invariant: a
shard is in the manifest before anybody hears of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from cfbus import logs
from cfbus.config_dataset import Dataset
from cfbus.core.effects import StartTask
from cfbus.core.tasks import Answer
from cfbus.daemons.chores import Chore
from cfbus.errors import EXIT_DONE, DiskFullError
from cfbus.runtime import Loop
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow

MAX_DEATHS = 3


class Later(Protocol):
    """Begins a task again in a while, because of ``why``; ``full``: for want of room."""

    def __call__(self, task: StartTask, why: str, *, full: bool) -> None:
        """See above."""


class Scanning:
    """At most one listing at a time."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        manifest: Manifest,
        dataset: Dataset,
        listed: Callable[[Sequence[tuple[str, int]]], None],
        ended: Callable[[str, Answer], None],
        later: Later,
    ) -> None:
        self._loop = loop
        self._store = store
        self._manifest = manifest
        self._dataset = dataset
        self._listed = listed
        self._ended = ended
        self._later = later
        self._child: Chore | None = None
        self._task: StartTask | None = None
        self._deaths = 0

    def begin(self, task: StartTask) -> None:
        """List what is not listed yet."""
        assert self._store.lock_fd is not None
        self._task = task
        command = [sys.executable, "-P", "-m", "cfbus.daemons.lister", str(self._store.root)]
        dataset = json.dumps(self._dataset.model_dump(), default=str).encode()  # paths may be no UTF-8
        self._child = Chore(self._loop, command, self._store.lock_fd, self._line, self._child_ended, stdin=dataset)

    def end(self) -> None:
        """Kill the child; what it had not finished will be listed again."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _line(self, line: bytes) -> None:
        if self._child is None or self._task is None:
            return  # it was ended, and this had come before
        row = ShardRow(**json.loads(line))
        try:
            self._manifest.add_shards([row])
        except DiskFullError as error:
            self.end()
            self._later(self._task, str(error), full=True)
            return
        self._listed([(row.name, row.length)])

    def _child_ended(self, exit_code: int, said: str) -> None:
        self._child = None
        assert self._task is not None
        if exit_code == DiskFullError.exit_code:
            self._later(self._task, said, full=True)
            return
        if exit_code < 0 and self._deaths < MAX_DEATHS:
            self._deaths += 1
            self._later(self._task, f"the child that lists ended by signal {-exit_code}", full=False)
            return
        problem = "" if exit_code == EXIT_DONE else said or f"the lister ended with exit code {exit_code}"
        log = logs.get_logger()
        if said and not problem:
            log.warning("listing.remarks", said=said)
        log.info("listing.ended", shards=self._manifest.shard_count(), problem=problem)
        self._ended(self._task.task, Answer(problem, self._manifest.shard_count()))
