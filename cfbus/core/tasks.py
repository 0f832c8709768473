"""The writer's tasks: which run, which wait for another of their kind, how they ended.

Invariants: at most one scan and one open-pass run at a time, whatever brokers that came and went have asked for; the
same task asked twice runs once; the end of a task is told again to whoever asks for it again.
"""

from __future__ import annotations

from cfbus.bus import messages as m
from cfbus.core.effects import Effect, Send, StartTask

BROKER = "broker"
REMEMBERED_TASKS = 100
ONE_AT_A_TIME = ("scan", "open-pass")


class Tasks:
    """What a writer was asked to do."""

    def __init__(self) -> None:
        self._running: dict[str, m.Task] = {}
        self._waiting: dict[str, m.Task] = {}
        self._ended: dict[str, m.Done] = {}

    def asked(self, message: m.Task, payload: bytes, slots: tuple[str, ...]) -> list[Effect]:
        """The broker wants this done; ``slots`` are those that still need it."""
        ended = self._ended.get(message.task)
        if ended is not None:
            return [Send(BROKER, ended)]
        if message.task in self._running or message.task in self._waiting:
            return []
        if message.kind in ONE_AT_A_TIME and any(other.kind == message.kind for other in self._running.values()):
            self._waiting[message.task] = message
            return []
        if message.kind == "open-pass" and not slots:
            return [self._end(message.task, "", 0)]
        self._running[message.task] = message
        return [StartTask(message.task, message.kind, slots, payload)]

    def ended(self, task: str, problem: str, count: int) -> tuple[list[Effect], list[m.Task]]:
        """A task is over. Returns what is told, and what should be asked again now; who waited for the same scan has
        the same answer."""
        effects: list[Effect] = [self._end(task, problem, count)]
        message = self._running.pop(task, None)
        again = [other for other in self._waiting.values() if message is not None and other.kind == message.kind]
        for other in again:
            del self._waiting[other.task]
        if message is not None and message.kind == "scan":
            return effects + [self._end(other.task, problem, count) for other in again], []
        return effects, again

    def _end(self, task: str, problem: str, count: int) -> Effect:
        self._ended[task] = m.Done(task=task, problem=problem[:1024], count=count)
        for old in list(self._ended)[:-REMEMBERED_TASKS]:
            del self._ended[old]
        return Send(BROKER, self._ended[task])
