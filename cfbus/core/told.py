"""What a verb of an admin is: a function of the broker's state that tells something. Types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cfbus.bus.messages import Task
from cfbus.core.effects import Effect

if TYPE_CHECKING:
    from cfbus.core.broker import Broker


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: facts, a table, or a problem; what else is to be done before it is sent, and by the writer."""

    facts: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    problem: str = ""
    effects: tuple[Effect, ...] = ()
    task: Task | None = None  # what the writer is to do


Arguments: TypeAlias = Mapping[str, str]
Verb: TypeAlias = Callable[["Broker", Arguments, float], Told]
