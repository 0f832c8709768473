"""What admins have the writer change or read of what is stored, and what came of it.

Part of the broker's core; the work is the writer's. An admin's call begins a task and is answered at once with its id;
what came of it is asked for. Invariants: so many at once and no more; what has ended is known for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cfbus.bus import messages as m
from cfbus.core.effects import Effect, Note

MOST_RUNNING = 16
REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Begun:
    """A task, who asked for it, and how it ended, if it has."""

    task: m.Task
    who: str
    done: m.Done | None = None


class Amending:
    """Tasks of admins, by id."""

    def __init__(self) -> None:
        self._begun: dict[str, Begun] = {}

    @property
    def full(self) -> bool:
        """No more may be begun now."""
        return sum(each.done is None for each in self._begun.values()) >= MOST_RUNNING

    def begun(self, task: m.Task, who: str) -> None:
        """The writer was asked."""
        self._begun[task.task] = Begun(task, who)
        ended = [name for name, each in self._begun.items() if each.done is not None]
        for name in ended[:-REMEMBERED]:
            del self._begun[name]

    def ended(self, task: m.Task, done: m.Done) -> list[Effect]:
        """The writer has done it, or could not."""
        before = self._begun.get(task.task)
        self._begun[task.task] = Begun(task, before.who if before is not None else "", done)
        facts = (("verb", task.verb), ("who", self._begun[task.task].who), ("outcome", done.problem[:200] or "done"))
        return [Note("store.amended" if task.kind == "amend" else "store.read", facts)]

    def get(self, task: str) -> Begun | None:
        """A task that was begun here, if it is still known."""
        return self._begun.get(task)

    def all(self) -> Mapping[str, Begun]:
        """Those that are known, oldest first."""
        return self._begun
