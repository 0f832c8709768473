"""A change of what counts in a store: redos to be opened, a tombstone to be set, or one to be removed.

What is to be changed is worked out elsewhere, by reading; here it is put into the manifest of a writer, all or nothing.
Invariant: a request that was carried out is known by its task, and is not carried out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cfbus.bus.fields import Overrides
from cfbus.errors import UsageError
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import PassRow, RedoFacts, Selected, Tombstone

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Request:
    """What is wanted: a verb with its arguments; ``slots`` are those that the configuration has prompts for. ``task``
    names it, ``who`` asked, ``at`` is microseconds UTC."""

    verb: str
    arguments: Mapping[str, str]
    slots: tuple[str, ...]
    task: str
    who: str
    at: int

    @property
    def dry(self) -> bool:
        """Only count."""
        return self.arguments.get("dry-run") == "yes"


@dataclass(frozen=True)
class Plan:
    """What a request comes to: for each set of slots the items that are to be captioned again, the tombstone, and what
    to say of it: facts and a table."""

    redos: tuple[tuple[tuple[str, ...], Selected], ...] = ()
    tombstone: Tombstone | None = None
    facts: Facts = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    why: str = ""

    @property
    def empty(self) -> bool:
        """It changes nothing."""
        return not self.redos and self.tombstone is None


def carried_out(manifest: Manifest, task: str) -> Facts | None:
    """What was told of a request that is in the manifest already."""
    passes = [row.number for row in manifest.passes() if row.redo is not None and row.redo.task == task]
    stones = [one.number for one in manifest.tombstones() if one.task == task]
    if passes or stones:
        return _numbers(passes, stones)
    closed = [row.number for row in manifest.passes() if row.redo is not None and row.redo.end_task == task]
    removed = [one.number for one in manifest.tombstones() if one.end_task == task]
    return _ended(removed, closed) if removed or closed else None


def carry_out(
    manifest: Manifest, request: Request, plan: Plan, overrides: Overrides = ()
) -> tuple[Facts, list[PassRow]]:
    """Put it into the manifest; what is told of it, and the passes that were opened."""
    stone = plan.tombstone
    if stone is not None:
        stone = replace(stone, number=1 + max((one.number for one in manifest.tombstones()), default=0))
    facts = RedoFacts(
        plan.why, request.who, request.task, request.at, overrides, stone.number if stone is not None else 0
    )
    opened = manifest.amend([(slots, facts, items) for slots, items in plan.redos], stone)
    return _numbers([row.number for row in opened], [stone.number] if stone is not None else []), opened


def restore(manifest: Manifest, number: int, task: str) -> tuple[Facts, list[PassRow]]:
    """Remove a tombstone; what is told of it, and the passes that were closed. ``UsageError`` where that cannot be."""
    try:
        closed = manifest.remove_tombstone(number, task)
    except ValueError as error:
        why = {
            "unknown": f"There is no tombstone {number}.",
            "removed": f"Tombstone {number} was removed before.",
            "compacted": f"Rows of tombstone {number} were taken away for good by a compaction.",
        }[str(error)]
        raise UsageError(why, "cfbus-admin tombstones lists them.") from None
    return _ended([number], [row.number for row in closed]), closed


def close(manifest: Manifest, number: int, task: str) -> tuple[Facts, list[PassRow]]:
    """Close a redo; what is told of it, and its row. ``UsageError`` where that cannot be."""
    rows = {row.number: row for row in manifest.passes()}
    if number not in rows or rows[number].redo is None:
        there = _list(row.number for row in rows.values() if row.redo is not None and not row.closed)
        raise UsageError(f"There is no redo with the number {number}.", f"Open are: {there}.")
    if rows[number].closed:
        raise UsageError(f"Pass {number} is closed already.")
    return _ended([], [number]), [manifest.close_pass(number, task)]


def _numbers(passes: Sequence[int], stones: Sequence[int]) -> Facts:
    told = (("passes", _list(passes)),)
    return (*told, ("tombstone", str(stones[0]))) if stones else told


def _ended(removed: Sequence[int], closed: Sequence[int]) -> Facts:
    told = (("closed_passes", _list(closed)),)
    return (("restored", str(removed[0])), *told) if removed else told


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
