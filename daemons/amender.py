"""The writer's work for admins: a child works out what a request comes to, the manifest takes it, the core is told.

Knows the child and the manifest; not the bus. Invariants: a request that the manifest has is answered, never carried
out again; one child at a time; a child that dies is a problem that is told, and nothing has changed.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from cfbus import logs
from cfbus.core.effects import StartTask
from cfbus.core.tasks import Answer
from cfbus.core.verbs_store import overrides_of
from cfbus.daemons.chooser import plan_from
from cfbus.daemons.chores import Chore
from cfbus.errors import CfbusError, DamagedStoreError, DiskFullError, UsageError
from cfbus.runtime import Loop
from cfbus.store import amendments
from cfbus.store.amendments import Facts, Request
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import PassRow

NUMBERED = {"restore": "tombstone", "close-pass": "pass"}
"""Verbs that are about one thing with a number, and the argument that has it."""


class Amender:
    """``changed`` is told which passes were opened or closed; ``ended`` what came of a task."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        manifest: Manifest,
        changed: Callable[[list[PassRow]], None],
        ended: Callable[[str, Answer], None],
    ) -> None:
        self._loop = loop
        self._store = store
        self._manifest = manifest
        self._changed = changed
        self._ended = ended
        self._waiting: list[StartTask] = []
        self._child: Chore | None = None
        self._line = b""

    def begin(self, task: StartTask) -> None:
        """Carry this out when it is its turn. For an amend all that is to be seen is sealed."""
        self._waiting.append(task)
        if self._child is None:
            self._next()

    def end(self) -> None:
        """Kill the child. Whoever asked asks again."""
        self._waiting.clear()
        if self._child is not None:
            self._child.end()
            self._child = None

    def _next(self) -> None:
        while self._waiting and self._child is None:
            self._try(self._waiting.pop(0))

    def _try(self, task: StartTask) -> None:
        request = _request(task)
        try:
            told = amendments.carried_out(self._manifest, task.task) if task.kind == "amend" else None
            if told is not None:
                self._ended(task.task, Answer(facts=told))
            elif task.verb in NUMBERED:
                self._numbered(task, request)
            else:
                self._start(task, request)
        except CfbusError as error:
            self._fail(task, error)

    def _numbered(self, task: StartTask, request: Request) -> None:
        number = request.arguments.get(NUMBERED[task.verb], "")
        if not number.isdecimal():
            raise UsageError(f"{number!r} is no number.")
        act = amendments.restore if task.verb == "restore" else amendments.close
        facts, rows = act(self._manifest, int(number), task.task)
        self._changed(rows)
        self._ended(task.task, Answer(facts=facts))

    def _start(self, task: StartTask, request: Request) -> None:
        assert self._store.lock_fd is not None
        self._line = b""
        command = [sys.executable, "-P", "-m", "cfbus.daemons.chooser", str(self._store.root)]
        given = json.dumps(asdict(request)).encode()
        over = functools.partial(self._chosen, task, request)
        self._child = Chore(self._loop, command, self._store.lock_fd, self._said, over, stdin=given)

    def _said(self, line: bytes) -> None:
        self._line = line

    def _chosen(self, task: StartTask, request: Request, exit_code: int, said: str) -> None:
        self._child = None
        try:
            if exit_code or not self._line:
                self._ended(task.task, Answer(self._why(exit_code, said)))
            else:
                self._apply(task, request)
        except CfbusError as error:
            self._fail(task, error)
        self._next()

    def _why(self, exit_code: int, said: str) -> str:
        """What the child said of itself, or, where that was its bug, where to look."""
        if exit_code in (UsageError.exit_code, DiskFullError.exit_code, DamagedStoreError.exit_code) and said:
            return " ".join(said.split())
        logs.get_logger().error("amend.failed", exit_code=exit_code, said=said)
        return "The writer's child failed at it, and nothing has changed; the writer's log says how."

    def _apply(self, task: StartTask, request: Request) -> None:
        plan = plan_from(self._line)
        facts: Facts = ()
        if not (request.dry or plan.empty):
            overrides = overrides_of(request.arguments.get("set", "{}"))
            facts, rows = amendments.carry_out(self._manifest, request, plan, overrides)
            self._changed(rows)
        self._ended(task.task, Answer(facts=(*facts, *plan.facts), columns=plan.columns, rows=plan.rows))

    def _fail(self, task: StartTask, error: CfbusError) -> None:
        if isinstance(error, UsageError | DiskFullError):
            self._ended(task.task, Answer(f"{error.message} {error.hint}".strip()))
        else:
            raise error


def _request(task: StartTask) -> Request:
    arguments = dict(task.arguments)
    who = arguments.pop("who", "")
    return Request(task.verb, arguments, task.slots, task.task, who, time.time_ns() // 1000)
