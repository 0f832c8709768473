"""How fast a worker is: items per second over windows of time. Pure.

Invariant: the rate is the slower of the last window's and the median of the last few, so that one lucky window earns
nobody a lease that is too large.
"""

from __future__ import annotations

RATE_WINDOW_SECONDS = 20.0
RATES_KEPT = 5


class Speed:
    """Counts items; ``rate`` is 0 until the first window has ended."""

    def __init__(self) -> None:
        self.rate = 0.0
        self.count = 0
        self._since: float | None = None
        self._rates: list[float] = []

    def measure(self, now: float) -> None:
        """End a window if it is time."""
        if self._since is None:
            self._since, self.count = now, 0
            return
        seconds = now - self._since
        if seconds >= RATE_WINDOW_SECONDS:
            self._rates = [*self._rates[-RATES_KEPT + 1 :], self.count / seconds]
            self.rate = min(self._rates[-1], sorted(self._rates)[len(self._rates) // 2])
            self._since, self.count = now, 0

    def forget(self) -> None:
        """What is captioned by changes: what was measured before says nothing about it."""
        self._rates.clear()
