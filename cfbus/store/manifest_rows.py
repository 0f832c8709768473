"""What a manifest says, row by row: shards, passes and their redos, segments, tombstones. Data only.

Knows neither SQLite nor files of any other kind. Invariant: what is here can be written as JSON and read again without
a change, because that is how the manifest keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from cfbus.bus.fields import Overrides

DoneRange = tuple[int, int, int, int]
"""(pass, shard, start, end): items [start, end) of a shard that need nothing more in a pass."""
DoneRanges = npt.NDArray[np.int64]
"""The same as rows of four, merged and in order."""


@dataclass(frozen=True)
class ShardRow:
    """A shard whose listing is in the store; ``digest`` is that of its listing file."""

    number: int
    name: str
    length: int
    digest: str = ""


Selected = npt.NDArray[np.int64]
"""Items of a redo as rows of three: shard, start, end; merged and in order."""


@dataclass(frozen=True)
class RedoFacts:
    """Why some items are captioned again, and how: by whom it was asked for, under which task, for which tombstone."""

    why: str
    who: str
    task: str
    at: int
    """Microseconds UTC."""
    overrides: Overrides = ()
    tombstone: int = 0
    """The tombstone that it makes good; 0 without."""
    end_task: str = ""
    """The task that closed it; empty while it is open."""

    def plain(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> RedoFacts:
        """From JSON."""
        fields = json.loads(text)
        return cls(**{**fields, "overrides": tuple((name, value) for name, value in fields["overrides"])})


@dataclass(frozen=True)
class PassRow:
    """A pass and the slots that it fills, in their order. A redo is over ``items`` only; a closed one is over, whatever
    is done of it."""

    number: int
    slots: tuple[str, ...]
    redo: RedoFacts | None = None
    items: int | None = None
    closed: bool = False


NewRedo = tuple[tuple[str, ...], RedoFacts, Selected]
"""Slots, why and how, and the items of a redo that is to be opened."""


@dataclass(frozen=True)
class Tombstone:
    """Rows that count no more: those with these values in these columns, up to a position, since a time.

    ``columns`` are names and values; ``image_sha256`` is hexadecimal. ``until`` is the last position that it is over,
    ``since`` microseconds UTC. ``credits`` are the captions that contributors had before and have no more,
    ``dead_letters`` how many. ``state``: ``active``; ``compacted``, when rows of it were taken away for good;
    ``removed``, when it was undone. ``end_task`` undid it.
    """

    number: int
    columns: tuple[tuple[str, str], ...]
    tables: tuple[str, ...]
    until: int
    since: int
    why: str
    who: str
    task: str
    at: int
    credits: Mapping[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    state: str = "active"
    end_task: str = ""

    @property
    def holds(self) -> bool:
        """It takes rows out."""
        return self.state != "removed"

    def plain(self) -> str:
        """All but the number, as JSON."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "number"})

    @classmethod
    def of(cls, number: int, text: str) -> Tombstone:
        """From JSON."""
        fields = json.loads(text)
        columns = tuple((name, value) for name, value in fields.pop("columns"))
        return cls(number=number, columns=columns, tables=tuple(fields.pop("tables")), **fields)


@dataclass(frozen=True)
class SegmentRow:
    """What was sealed of positions ``first`` to ``last``, both included.

    ``files`` are paths in the store, ``size`` their bytes, ``rows`` captions and ``failures`` dead letters,
    ``totals`` the captions of each contributor, ``sealed_at`` microseconds UTC.
    """

    first: int
    last: int
    files: tuple[str, ...]
    rows: int
    failures: int
    size: int
    sealed_at: int
    totals: Mapping[str, int]


def merge_ranges(ranges: Iterable[DoneRange]) -> DoneRanges:
    """The ranges in order, with those joined that touch or overlap."""
    rows = np.array(list(ranges), np.int64).reshape(-1, 4)
    if len(rows) == 0:
        return rows
    rows = rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))]
    group = np.concatenate(([True], np.any(rows[1:, :2] != rows[:-1, :2], axis=1))).cumsum()
    # A running maximum of ends that never reaches into the next group: lift each group above the one before.
    lift = group * (int(rows[:, 3].max()) + 2)
    reach = np.maximum.accumulate(rows[:, 3] + lift)
    heads = np.concatenate(([True], rows[1:, 2] + lift[1:] > reach[:-1])).nonzero()[0]
    merged = rows[heads]
    last = np.concatenate((heads[1:], [len(rows)])) - 1
    merged[:, 3] = reach[last] - lift[last]
    return merged
