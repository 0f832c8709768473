"""How long a journal stays open before it is sealed for its age: longer, the more small segments there are.

Readers want new captions soon, and everybody wants few files. A fixed time cannot give both: five seconds make
17,000 files a day of a slow run, an hour makes the first look wait for an hour. So the time begins at what is
configured and grows with each small segment. A run that seals only for age then has, after a time ``t``,
about ``sqrt(2 * GROWTH * t / seconds)`` segments, and what is not sealed yet is of the last ``2 / segments`` of
its age. It is a count of what is there and no clock, so it goes on over restarts, and folding small segments
into large ones makes it short again.

Segments that are large enough to be worth a file do not count: of those there are as many as there is data.
"""

from __future__ import annotations

from collections.abc import Iterable

GROWTH = 30
"""So many small segments make the time twice, three times, … as long."""
SMALL_SHARE = 64
"""A segment is small below this share of ``seal_bytes``: parquet takes a tenth of a journal, or a third."""


class Pace:
    """The pace of one store; ``sizes`` are the bytes of the segments that it has."""

    def __init__(self, seconds: float, seal_bytes: int, sizes: Iterable[int]) -> None:
        self._seconds = seconds
        self._seal_bytes = seal_bytes
        self._small = 0
        for size in sizes:
            self.sealed(size)

    def sealed(self, size: int) -> None:
        """There is one segment more."""
        self._small += size * SMALL_SHARE < self._seal_bytes

    @property
    def patience(self) -> float:
        """Seconds from a journal's first frame to its seal."""
        return self._seconds * (1 + self._small / GROWTH)
