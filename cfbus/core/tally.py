"""What the captions are like, counted as they become durable: by slot how many, how long, which flags; by contributor
how many.

Part of the writer's core. Must not know what becomes of the counts. Lengths are counted in bytes of UTF-8, in classes
that double; flags in the order of ``cfbus.bus.columns.FLAGS``.

Invariants: a caption counts once, and only when it is durable; what the counts cost does not depend on the texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cfbus.bus import messages as m
from cfbus.bus.columns import FLAGS, Table
from cfbus.bus.fields import LENGTH_CLASSES, MAX_TALLIED

EDGES = np.array([1, *(16 << at for at in range(LENGTH_CLASSES - 2))], np.int64)
"""A caption of n bytes is of class i when EDGES[i - 1] <= n < EDGES[i]: empty, below 16, below 32, …"""
_FLAG_BITS = np.array([1 << at for at in range(len(FLAGS))], np.int64)
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]


@dataclass(eq=False)
class SlotCounts:
    """The captions of one slot."""

    captions: int = 0
    tokens: int = 0
    flags: Ints = field(default_factory=lambda: np.zeros(len(FLAGS), np.int64))
    lengths: Ints = field(default_factory=lambda: np.zeros(LENGTH_CLASSES, np.int64))

    def add(self, other: SlotCounts) -> None:
        """Those of the same slot."""
        self.captions += other.captions
        self.tokens += other.tokens
        self.flags += other.flags
        self.lengths += other.lengths


Counts = Mapping[str, SlotCounts]


def counts_of(table: Table, new: Rows | None) -> Counts:
    """The captions in a ``captions`` table; only of the items that are ``new``, when that is given."""
    slots = table.slot_names
    shape = (table.rows, len(slots))
    kept = slice(None) if new is None else new
    sizes = table.text("caption").lengths.astype(np.int64).reshape(shape)[kept]
    flags = table.numbers("flags").reshape(shape)[kept]
    tokens = np.maximum(table.numbers("output_tokens").reshape(shape)[kept], 0)
    return {slot: _slot(sizes[:, at], flags[:, at], tokens[:, at]) for at, slot in enumerate(slots)}


def _slot(sizes: Ints, flags: Ints, tokens: Ints) -> SlotCounts:
    classes = np.searchsorted(EDGES, sizes, side="right")
    return SlotCounts(
        len(sizes),
        int(tokens.sum()),
        ((flags[:, None] & _FLAG_BITS) != 0).sum(axis=0).astype(np.int64),
        np.bincount(classes, minlength=LENGTH_CLASSES).astype(np.int64),
    )


class Tallies:
    """All counts of one writer: of slots since it started, of contributors since the store began."""

    def __init__(self) -> None:
        self._slots: dict[str, SlotCounts] = {}
        self._credits: Counter[str] = Counter()
        self.changed = True

    def know_credits(self, totals: Mapping[str, int]) -> None:
        """How many captions of each contributor the store has."""
        self._credits = Counter(totals)
        self.changed = True

    def add(self, counts: Counts, contributor: str) -> None:
        """Captions that are durable now."""
        for slot, more in counts.items():
            self._slots.setdefault(slot, SlotCounts()).add(more)
        self._credits[contributor] += sum(more.captions for more in counts.values())
        self.changed = True

    def message(self, unsealed_bytes: int) -> m.Tally:
        """For the broker; of contributors those with the most captions."""
        self.changed = False
        slots = tuple(
            m.SlotTally(
                slot=slot,
                captions=counts.captions,
                tokens=counts.tokens,
                flags=tuple(counts.flags.tolist()),
                lengths=tuple(counts.lengths.tolist()),
            )
            for slot, counts in list(self._slots.items())[:MAX_TALLIED]
        )
        best = self._credits.most_common(MAX_TALLIED)
        credited = tuple(m.Credit(contributor=name, captions=captions) for name, captions in best if name)
        return m.Tally(slots=slots, credits=credited, contributors=len(self._credits), unsealed_bytes=unsealed_bytes)
