"""What is wrong with a run, as far as its status tells: the alarms of `cfbus-admin health`. Pure.

Invariants: each alarm has a name that the index in docs/operations.md explains; a run that only goes slowly, or that an
admin has paused, is not called broken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cfbus.core.snapshot import Status


@dataclass(frozen=True, slots=True)
class Alarm:
    """``serious``: nothing goes on, or soon will not."""

    name: str
    says: str
    serious: bool = True


Test = Callable[[Status], bool]

ALARMS: Final[tuple[tuple[Alarm, Test], ...]] = (
    (Alarm("writer-away", "No writer is on the bus: nothing can become durable."), lambda s: s.writer == "away"),
    (Alarm("writer-full", "The writer's journal is full: results wait for a seal."), lambda s: s.writer == "full"),
    (Alarm("writer-disk-full", "The writer's disk is full."), lambda s: s.writer == "disk-full"),
    (Alarm("task-failed", "The writer could not do what it was asked."), lambda s: bool(s.problem)),
    (
        Alarm("no-workers", "There is work, and no worker takes it."),
        lambda s: not (s.workers or s.finished or s.paused or s.listing),
    ),
    (
        Alarm("all-starved", "The engines of all workers lack something.", serious=False),
        lambda s: s.workers > 0 and s.workers_starved == s.workers and not s.why,
    ),
    (
        Alarm("slots-without-prompt", "The configuration has no prompt for a slot whose pass is not complete."),
        lambda s: s.why == "slots-without-prompt",
    ),
    (Alarm("paused", "An admin has paused the run.", serious=False), lambda s: s.paused),
)


def alarms(status: Status) -> tuple[Alarm, ...]:
    """What is wrong; nothing where all is well."""
    return tuple(alarm for alarm, is_true in ALARMS if is_true(status))
