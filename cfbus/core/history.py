"""How fast the run was: items done per second, now and over the last quarter of an hour.

Part of the broker's core. Must not know why. Memory does not grow: a point for each second of the last minute, and one
for each quarter of a minute of the last quarter of an hour.
"""

from __future__ import annotations

import itertools
from collections import deque

FINE_SECONDS, FINE_POINTS = 1.0, 60
COARSE_SECONDS, COARSE_POINTS = 15.0, 60
NOW_SECONDS = 10.0


class History:
    """Samples of a count that grows."""

    def __init__(self) -> None:
        self._fine: deque[tuple[float, int]] = deque(maxlen=FINE_POINTS + 1)
        self._coarse: deque[tuple[float, int]] = deque(maxlen=COARSE_POINTS + 1)

    def sample(self, now: float, count: int) -> None:
        """The count at this time, in seconds; what comes too soon after the last is passed over."""
        if not self._fine or now - self._fine[-1][0] >= FINE_SECONDS:
            self._fine.append((now, count))
        if not self._coarse or now - self._coarse[-1][0] >= COARSE_SECONDS:
            self._coarse.append((now, count))

    def rate(self, now: float, count: int, seconds: float) -> float:
        """Per second over the last ``seconds`` (a minute at most in fine steps), or since the first sample."""
        points = self._fine if seconds <= FINE_SECONDS * FINE_POINTS else self._coarse
        since = next(((at, had) for at, had in points if now - at <= seconds), (now, count))
        return max(count - since[1], 0) / (now - since[0]) if now > since[0] else 0.0

    def rates(self) -> tuple[float, ...]:
        """Items per second in each quarter of a minute, oldest first; one point less than samples."""
        pairs = itertools.pairwise(self._coarse)
        return tuple(round(max(after - before, 0) / (end - start), 2) for (start, before), (end, after) in pairs)
