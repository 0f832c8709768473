"""The port of engines: what writes captions.

An engine is given items, and hands back an outcome for each, in any order and from any thread. It knows nothing of
leases, results or the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cfbus.bus.figures import EngineFigures
from cfbus.bus.messages import Spec
from cfbus.core.outcome import EngineFacts, Outcome, WorkItem

Post = Callable[[Outcome], None]
"""Takes a finished item; may be called from any thread."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read of an item: its image's bytes, its columns, and what of them is kept with its rows."""

    data: bytes
    columns: Mapping[str, object] = field(default_factory=dict)
    url: str = ""
    metadata: str = ""


Read = Callable[[WorkItem], Loaded]
"""Reads an item; raises ``cfbus.sources.base.ReadError``."""


class Engine(Protocol):
    """Writes captions. ``use`` comes before the first ``submit``, and again when the spec changes."""

    @property
    def facts(self) -> EngineFacts:
        """What wrote the captions, as rows say it."""

    def use(self, spec: Spec) -> None:
        """Caption by this from the next item on."""

    def submit(self, items: Sequence[WorkItem]) -> None:
        """Begin with these; an outcome for each is posted, unless it is abandoned first."""

    def abandon(self, lease: str, indices: frozenset[int]) -> None:
        """The outcomes of these are not needed any more."""

    def figures(self) -> EngineFigures | None:
        """How it is doing at this moment; None while there is no engine, because it is being built anew. Never blocks
        and costs next to nothing: it is asked several times a second. What it does not know it leaves out."""

    def close(self) -> None:
        """Stop, within a few seconds; what is unfinished is posted as a failure, and nothing afterwards."""
