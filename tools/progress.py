"""How far a run is, for a person: a bar with rate and ETA on a terminal, a line now and then elsewhere.

Knows statuses, not where they come from. What is not a terminal gets whole lines without control characters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from cfbus.core.snapshot import Status
from cfbus.logs import display

LINE_SECONDS = 5.0
REASONS = {
    "writer-away": "waiting for the writer",
    "catching-up": "catching up with the store",
    "writer-full": "waiting for the writer to seal",
    "writer-disk-full": "THE DISK IS FULL: make room, then it goes on by itself",
    "paused": "paused; cfbus-admin resume",
    "no-pass-yet": "starting",
    "slots-without-prompt": "a slot of the store has no prompt in the configuration",
    "finished": "sealing",
}


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours too; days where there are some."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def rate(status: Status) -> str:
    """Images per second; empty while nothing is captioned for a reason of its own."""
    if not status.rate or status.why:
        return ""
    return f"{status.rate:,.0f}/s" if status.rate >= 100 else f"{status.rate:,.1f}/s"


def left(status: Status) -> str:
    """How long it will still take at this rate; empty while that cannot be known."""
    if not rate(status) or status.listing or status.done >= status.items:
        return ""
    return f"{duration(max((status.items - status.done) / status.rate, 1.0))} left"


def note(status: Status) -> str:
    """What keeps the run, and what went wrong."""
    parts = [REASONS.get(status.why, status.why)] if status.why else []
    if status.listing:
        parts.append(f"listing: {status.items:,} images so far" if status.items else "listing the images")
    elif not status.why and not status.workers:
        parts.append("waiting for a worker")
    if status.dead_letters:
        parts.append(f"{status.dead_letters:,} failed")
    return ", ".join(parts)


def line(status: Status) -> str:
    """All of it in one line of plain text."""
    done = f"{status.done:,} of {status.items:,} images done" if status.items else ""
    return ", ".join(part for part in (done, rate(status), left(status), note(status)) if part)


class Progress:
    """Shows each new status."""

    def __init__(self, console: Console, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._line_at = 0.0
        self._reason = ""
        self._bar = Bar(
            SpinnerColumn(style="cyan"),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=20)),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[pace]}", markup=False, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", style="yellow", markup=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(display(name, 20), total=None, count="", pace="", note="starting")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, status: Status) -> None:
        """A new status."""
        pace = ", ".join(part for part in (rate(status), left(status)) if part)
        self._bar.update(
            self._task,
            completed=status.done,
            total=None if status.listing or not status.items else status.items,
            count=f"{status.done:,}/{status.items:,}" if status.items else "",
            pace=pace,
            note=note(status),
        )
        if not self._console.is_terminal:
            self._line(status)

    def _line(self, status: Status) -> None:
        """Every few seconds, and at once when what keeps the run is another thing than before."""
        now, reason = self._clock(), status.why
        if now < self._line_at and reason == self._reason:
            return
        self._line_at, self._reason = now + LINE_SECONDS, reason
        self._console.print(line(status), markup=False)

    def say(self, news: str) -> None:
        """Something happened."""
        self._bar.console.print(news, markup=False)
