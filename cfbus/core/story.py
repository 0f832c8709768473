"""What happened to each shard, in order, for `cfbus-admin story`: a bounded memory of what was noted and stored. Pure.

It lives as long as the broker does. Must not know who reads it.

Invariants: it is bounded, in shards and in lines for each: the oldest go first; from when on nothing of a shard is
forgotten can be asked, and is never said too early.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from cfbus.core.ranges import Pair

SHARDS_KEPT = 512
LINES_KEPT = 256


@dataclass(frozen=True, slots=True)
class Line:
    """``at`` in microseconds UTC; the items [start, end) of a pass. ``contributor`` is an id."""

    at: int
    pass_number: int
    start: int
    end: int
    what: str
    worker: str = ""
    contributor: str = ""
    job: str = ""


class Story:
    """Lines by shard; of the shards, those of which something was told last."""

    def __init__(self) -> None:
        self._shards: OrderedDict[int, deque[Line]] = OrderedDict()
        self._forgot_at = 0  # the newest of what went with whole shards

    def tell(self, shard: int, line: Line) -> None:
        """One more thing happened."""
        lines = self._shards.setdefault(shard, deque(maxlen=LINES_KEPT))
        lines.append(line)
        self._shards.move_to_end(shard)
        if len(self._shards) > SHARDS_KEPT:
            _, gone = self._shards.popitem(last=False)
            self._forgot_at = gone[-1].at

    def since(self, shard: int, started: int) -> int:
        """From when on all is remembered that happened to this shard; ``started``: when the broker was."""
        lines = self._shards.get(shard)
        if not lines:
            return max(started, self._forgot_at)
        if len(lines) == LINES_KEPT:
            return lines[0].at
        return max(started, min(self._forgot_at, lines[0].at))

    def of(self, shard: int, part: Pair | None = None) -> list[Line]:
        """All that is remembered of a shard, or of these items of it, oldest first."""
        lines = self._shards.get(shard, ())
        return [line for line in lines if part is None or (line.start < part[1] and part[0] < line.end)]
