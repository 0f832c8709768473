"""A lease as the worker holds it, and what its items are captioned by. Plain data for `cfbus.core.worker`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from cfbus.bus import messages as m
from cfbus.bus.fields import Overrides
from cfbus.core.outcome import Outcome, WorkItem
from cfbus.core.overriding import overridden
from cfbus.core.ranges import RangeSet


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """A spec from when it was taken into use until another was; an item that was begun under it keeps it."""

    spec: m.Spec
    generation: int

    def same(self, spec: m.Spec, generation: int) -> bool:
        """Whether there is nothing to change."""
        return self.spec == spec and self.generation == generation

    def serves(self, grant: m.Grant) -> Use | None:
        """What this grant's items are captioned by, if its slots have prompts and its overrides a meaning here."""
        if not {slot.name for slot in self.spec.slots}.issuperset(grant.slots):
            return None
        return _use_with(self, grant.overrides) if grant.overrides else self


@lru_cache(maxsize=64)
def _use_with(use: Use, overrides: Overrides) -> Use | None:
    """One for the same two, so that what was captioned alike travels together."""
    try:
        return Use(overridden(use.spec, overrides), use.generation)
    except ValueError:
        return None


@dataclass(eq=False)
class Held:
    """What is to do, in flight and finished of one lease."""

    grant: m.Grant
    keys: list[str]
    locators: list[bytes]
    todo: RangeSet
    in_flight: dict[int, Use] = field(default_factory=dict)
    finished: list[tuple[Outcome, Use]] = field(default_factory=list)
    finished_bytes: int = 0
    since: float = 0.0
    captioned: int = 0
    unacked: int = 0
    current: bool = True
    forgotten: bool = False  # its feeder is not needed any more

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for."""
        return not (self.todo or self.in_flight or self.finished or self.unacked)

    def items(self, start: int, end: int) -> list[WorkItem]:
        """These, as the engine gets them."""
        grant = self.grant
        return [
            WorkItem(
                grant.lease,
                grant.shard_name,
                index,
                self.keys[index - grant.start],
                self.locators[index - grant.start],
                grant.slots,
                grant.overrides,
            )
            for index in range(start, end)
        ]

    def taken_back(self, *, at_once: bool) -> RangeSet:
        """What is not begun (``at_once``: also what is in flight), and is not to be done here any more."""
        back, self.todo = self.todo, RangeSet()
        if at_once:
            back.update((index, index + 1) for index in self.in_flight)
            self.in_flight.clear()
        return back
