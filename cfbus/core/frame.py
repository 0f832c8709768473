"""One accepted result as the journal keeps it. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cfbus.bus.columns import Ints

DoneRange = tuple[int, int, int, int]
"""(pass, shard, start, end): items [start, end) of a shard that need nothing more in a pass."""


@dataclass(frozen=True)
class JournalFrame:
    """One frame and whose it is.

    ``table`` is ``captions`` or ``failures``; ``ranges`` are the half-open item ranges of its rows, in order;
    bit i (from the low end) of ``mask`` says whether item i counts, None that all do; ``received`` is
    microseconds UTC; ``crc`` the CRC-32 of ``frame``.
    """

    position: int
    table: str
    lease: str
    job: str
    pass_number: int
    shard: int
    ranges: tuple[tuple[int, int], ...]
    mask: bytes | None
    contributor: str
    key: str
    received: int
    crc: int
    frame: bytes = field(repr=False)

    def items(self) -> Ints:
        """The item indices of the rows, whether they count or not."""
        if len(self.ranges) == 1:
            return np.arange(*self.ranges[0], dtype=np.int64)
        return np.concatenate([np.arange(start, end, dtype=np.int64) for start, end in self.ranges])

    def counted(self) -> npt.NDArray[np.bool_] | None:
        """Which rows' items count; None when all do."""
        if self.mask is None:
            return None
        count = sum(end - start for start, end in self.ranges)
        bits = np.unpackbits(np.frombuffer(self.mask, np.uint8), bitorder="little")[:count]
        return np.pad(bits, (0, count - len(bits))).astype(np.bool_)

    def done(self) -> list[DoneRange]:
        """The items that count, as ranges."""
        counted = self.counted()
        if counted is None:
            return [(self.pass_number, self.shard, start, end) for start, end in self.ranges]
        items = self.items()[counted]
        if len(items) == 0:
            return []
        runs = np.split(items, np.flatnonzero(np.diff(items) != 1) + 1)
        return [(self.pass_number, self.shard, int(run[0]), int(run[-1]) + 1) for run in runs]
