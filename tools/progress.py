"""How far a run is, for a person: a bar with rate and ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cfbus.core.snapshot import Status
from cfbus.logs import display

LINE_SECONDS = 5.0
REASONS = {
    "writer-away": "waiting for the writer",
    "catching-up": "catching up with the store",
    "writer-full": "waiting for the writer to seal",
    "writer-disk-full": "THE DISK IS FULL: make room, then it goes on by itself",
    "paused": "paused (cfbus-admin resume)",
    "no-pass-yet": "starting",
    "slots-without-prompt": "a slot of the store has no prompt in the configuration",
    "finished": "sealing",
}


class Progress:
    """Shows each new status."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._line_at = 0.0
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(display(name, 30), total=None, rate="", note="starting")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, status: Status) -> None:
        """A new status."""
        total = status.items if not status.listing else None
        rate = f"{status.rate:,.1f}/s" if status.rate else ""
        note = self._note(status)
        self._bar.update(self._task, completed=status.done, total=total, rate=rate, note=note)
        if not self._console.is_terminal and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_SECONDS
            self._console.print(f"{status.done:,} of {status.items:,} images done {rate} {note}".rstrip())

    def _note(self, status: Status) -> str:
        parts = [REASONS.get(status.why, status.why)] if status.why else []
        if status.listing:
            parts.append(f"listing: {status.items:,} images so far")
        if status.dead_letters:
            parts.append(f"{status.dead_letters:,} failed")
        return ", ".join(parts)

    def say(self, news: str) -> None:
        """Something happened."""
        self._bar.console.print(news)
