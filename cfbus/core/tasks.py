"""The writer's tasks: which run, which wait for another of their kind, how they ended.

Invariants: of a scan, an open-pass, an amend and a look at most one each runs at a time, whatever brokers that came and
went have asked for; the same task asked twice runs once; the end of a task is told again to whoever asks for it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from cfbus.bus import messages as m
from cfbus.bus.fields import PAGE_BYTES
from cfbus.core.effects import Effect, Send, StartTask
from cfbus.core.pages import pages

BROKER = "broker"
REMEMBERED_TASKS = 100
CELL_CHARS, FACT_CHARS = 512, 256
ONE_AT_A_TIME = ("scan", "open-pass", "amend", "look")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a task: nothing but a count of most; of an amend or a look facts and a table."""

    problem: str = ""
    count: int = 0
    facts: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def message(self, task: str) -> m.Done:
        """As the broker is told, with as many rows as fit."""
        cut = [tuple(cell[:CELL_CHARS] for cell in row) for row in self.rows]
        rows = next(pages(cut, _row_bytes, PAGE_BYTES // 2))
        facts = self.facts
        if len(rows) < len(self.rows):
            facts = (*facts, ("shown", f"{len(rows)} of {len(self.rows)}"))
        return m.Done(
            task=task, problem=self.problem[:1024], count=self.count,
            facts=tuple((name, value[:FACT_CHARS]) for name, value in facts), columns=self.columns, rows=tuple(rows),
        )  # fmt: skip


def _row_bytes(row: tuple[str, ...]) -> int:
    return max(sum(len(cell.encode("utf-8", "replace")) + 3 for cell in row) + 3, PAGE_BYTES // 2 // m.MAX_ROWS + 1)


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
            return [self._end(message.task, Answer())]
        self._running[message.task] = message
        return [StartTask(message.task, message.kind, slots, payload, message.verb, message.arguments)]

    def ended(self, task: str, answer: Answer) -> tuple[list[Effect], list[m.Task]]:
        """A task is over. Returns what is told, and what should be asked again now; who waited for the same scan has
        the same answer."""
        effects: list[Effect] = [self._end(task, answer)]
        message = self._running.pop(task, None)
        again = [other for other in self._waiting.values() if message is not None and other.kind == message.kind]
        for other in again:
            del self._waiting[other.task]
        if message is not None and message.kind == "scan":
            return effects + [self._end(other.task, answer) for other in again], []
        return effects, again

    def _end(self, task: str, answer: Answer) -> Effect:
        self._ended[task] = answer.message(task)
        for old in list(self._ended)[:-REMEMBERED_TASKS]:
            del self._ended[old]
        return Send(BROKER, self._ended[task])
