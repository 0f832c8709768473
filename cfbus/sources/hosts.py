"""How many ask one host at the same time.

It must not know what is asked.

Invariant: the table holds only hosts that somebody uses or waits for now; it is never longer than there are threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Hosts:
    """Turns at hosts, ``per_host`` at once at each."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._lock = threading.Lock()
        self._turns: dict[str, tuple[threading.Semaphore, int]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @contextmanager
    def turn(self, host: str, seconds: float) -> Iterator[bool]:
        """A turn at this host; False where none came within ``seconds``."""
        with self._lock:
            turns, users = self._turns.get(host) or (threading.Semaphore(self._per_host), 0)
            self._turns[host] = turns, users + 1
        mine = turns.acquire(timeout=max(0.0, seconds))
        try:
            yield mine
        finally:
            if mine:
                turns.release()
            with self._lock:
                turns, users = self._turns.pop(host)
                if users > 1:
                    self._turns[host] = turns, users - 1
