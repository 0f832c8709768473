"""What a daemon tells systemd about itself: sd_notify's protocol over its datagram socket.

What it is for: ready, reloading, stopping, a status line for `systemctl status`, the watchdog, and more time while a
model loads. Without ``NOTIFY_SOCKET`` nothing is told and nothing fails.
What it must not know: what the daemon does.

Invariants: telling never blocks and never raises, for a daemon must not die of its supervisor; the watchdog is fed
only by who asked for it (``WATCHDOG_PID``), and only while the daemon says that it gets on with its work.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from cfbus import logs

STATUS_SECONDS = 5.0
EXTEND_SECONDS = 60.0
"""So much more time is asked for at once while something long goes on, three times in each such span."""
_MICRO = 1_000_000


def tell(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd these lines (``READY=1``); whether there was somebody to tell and it was taken."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        door.setblocking(False)
        try:
            door.connect("\0" + address[1:] if address.startswith("@") else address)
            door.sendall("\n".join(lines).encode())
        except OSError:
            return False
    return True


def status(text: str) -> bool:
    """The line that `systemctl status` shows; strangers' names in it are made harmless."""
    return tell(f"STATUS={logs.display(text, 300)}")


def reloading() -> bool:
    """A reload has begun; ``READY=1`` ends it."""
    return tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


@contextmanager
def extending(what: str, seconds: float = EXTEND_SECONDS) -> Iterator[None]:
    """While this lasts, systemd's patience with a start or stop does not run out; `what` is the status meanwhile."""
    done = threading.Event()

    def ask() -> None:
        while True:
            tell(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICRO)}", f"STATUS={logs.display(what, 300)}")
            if done.wait(seconds / 3):
                return

    asker = threading.Thread(target=ask, name="notify", daemon=True)
    asker.start()
    try:
        yield
    finally:
        done.set()
        asker.join(1.0)


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often systemd wants to hear of this process, if it does; feed it twice as often."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        micro = int(environ.get("WATCHDOG_USEC", ""))
        return micro / _MICRO if micro > 0 else None
    return None


class Watchdog:
    """Fed by the loop after each turn; starves when the loop stands still, or when `at_work` says that nothing gets on.

    ``at_work(now)`` is empty while all is well, else a sentence: it is logged once, and systemd is left to act.
    """

    def __init__(self, at_work: Callable[[float], str], every: float | None = None) -> None:
        interval = every if every is not None else watchdog_seconds()
        self._every = interval / 2 if interval else None
        self._at_work = at_work
        self._fed_at = float("-inf")
        self._status_at = float("-inf")
        self._complained = False

    def turn(self, now: float, describe: Callable[[], str]) -> float:
        """After a turn of the loop; ``now`` in seconds. Returns when to come again. Costs nothing without systemd."""
        if "NOTIFY_SOCKET" not in os.environ:
            return float("inf")
        if now >= self._status_at + STATUS_SECONDS:
            self._status_at = now
            status(describe())
        if self._every is not None and now >= self._fed_at + self._every:
            self._feed(now)
        return min(self._status_at + STATUS_SECONDS, self._fed_at + self._every if self._every else float("inf"))

    def _feed(self, now: float) -> None:
        self._fed_at = now
        problem = self._at_work(now)
        if not problem:
            self._complained = False
            tell("WATCHDOG=1")
        elif not self._complained:
            self._complained = True
            logs.get_logger().error("watchdog.not-fed", why=problem)
