"""A warning while there is time: the key of this daemon ends soon.

Knows what the broker said of the key's end (WELCOME); by this host's clock it decides nothing but when to warn.
"""

from __future__ import annotations

import time

from cfbus import logs
from cfbus.bus import messages as m

WARN_SECONDS = 14 * 86_400.0
AGAIN_SECONDS = 86_400.0


class KeyAge:
    """Warns at each WELCOME, and once a day, from two weeks before the end on."""

    def __init__(self) -> None:
        self._ends: float | None = None
        self._warn_at = 0.0

    def told(self, welcome: m.Welcome) -> None:
        """The broker took us in, and said when the key ends."""
        self._ends = welcome.key_expires / 1e6 if welcome.key_expires else None
        self._warn_at = 0.0

    def look(self, at: float) -> float:
        """Warn if it is time; ``at`` of a clock that never jumps. Returns when to look again."""
        if self._ends is None:
            return at + AGAIN_SECONDS
        if at >= self._warn_at:
            self._warn_at = at + AGAIN_SECONDS
            left = self._ends - time.time()
            if left < WARN_SECONDS:
                days = max(left, 0.0) / 86_400.0
                logs.get_logger().warning(
                    "key.ends-soon", days_left=round(days, 1), says="ask the maintainer to let it last longer"
                )
        return self._warn_at
