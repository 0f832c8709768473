"""What `cfbus-top` knows at one moment, and how a person wants to see it. Pure: no clock, socket or terminal.

`Seen` collects what arrived; `View` is what keys have changed; `Snapshot` is both with the time, and all that a screen
is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from cfbus.core.snapshot import Activity, Leaderboard, Quality, Status, Throughput, WorkersPage, WorkerView

LOST_SECONDS = 5.0
"""The state of the run comes each second: after so long without, the broker is taken for lost."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest of everything; ``heard`` is when a status came last, in seconds of any clock."""

    status: Status | None = None
    workers: tuple[WorkerView, ...] = ()
    throughput: Throughput | None = None
    quality: Quality | None = None
    leaderboard: Leaderboard | None = None
    activity: Activity | None = None
    heard: float | None = None
    pages: dict[int, tuple[WorkerView, ...]] = field(default_factory=dict)

    def after(self, message: BaseModel, now: float) -> Seen:
        """With this message."""
        match message:
            case Status():
                return replace(self, status=message, heard=now)
            case WorkersPage():
                pages = {first: page for first, page in self.pages.items() if first < message.total}
                pages[message.first] = message.workers
                workers = tuple(worker for first in sorted(pages) for worker in pages[first])[: message.total]
                return replace(self, pages=pages, workers=workers)
            case Throughput():
                return replace(self, throughput=message)
            case Quality():
                return replace(self, quality=message)
            case Leaderboard():
                return replace(self, leaderboard=message)
            case Activity():
                return replace(self, activity=message)
            case _:
                return self

    @property
    def whole(self) -> bool:
        """Everything was heard once."""
        parts = (self.status, self.throughput, self.quality, self.leaderboard, self.activity)
        return all(part is not None for part in parts) and bool(self.pages)


Key = Callable[[WorkerView], object]
SORTS: dict[str, Key] = {
    "rate": lambda worker: (-worker.rate, worker.name),
    "name": lambda worker: worker.name,
    "contributor": lambda worker: (worker.contributor, worker.name),
    "in flight": lambda worker: (-worker.in_flight, worker.name),
    "last seen": lambda worker: (-worker.heard_seconds_ago, worker.name),
}
PANELS = ("quality", "contributors", "activity")


@dataclass(frozen=True, slots=True)
class View:
    """What keys have chosen. ``typing`` is true while a filter is typed."""

    sort: str = "rate"
    filter: str = ""
    typing: bool = False
    paused: bool = False
    help: bool = False
    selected: int = 0
    detail: bool = False
    panel: str = PANELS[0]

    def pressed(self, key: str, count: int) -> View:
        """After a key; ``count`` is how many workers there are to choose from."""
        if self.typing:
            return self._typed(key)
        if self.help or (self.detail and key in ("escape", "q", "enter")):
            return replace(self, help=False, detail=False)
        moved = self._moved(key, max(count - 1, 0))
        if moved is not None:
            return moved
        match key:
            case "/":
                return replace(self, typing=True, detail=False)
            case "escape":
                return replace(self, filter="", selected=0)
            case "p" | " ":
                return replace(self, paused=not self.paused)
            case "?" | "h":
                return replace(self, help=True)
            case "enter":
                return replace(self, detail=count > 0)
            case "tab":
                return replace(self, panel=PANELS[(PANELS.index(self.panel) + 1) % len(PANELS)])
            case _:
                return self

    def _moved(self, key: str, last: int) -> View | None:
        """After a key that only moves: another worker, another order."""
        match key:
            case "s" | "S":
                names = list(SORTS)
                step = 1 if key == "s" else -1
                return replace(self, sort=names[(names.index(self.sort) + step) % len(names)], selected=0)
            case "down" | "j":
                return replace(self, selected=min(self.selected + 1, last))
            case "up" | "k":
                return replace(self, selected=max(min(self.selected, last) - 1, 0))
            case _:
                return None

    def _typed(self, key: str) -> View:
        match key:
            case "enter":
                return replace(self, typing=False)
            case "escape":
                return replace(self, typing=False, filter="", selected=0)
            case "backspace":
                return replace(self, filter=self.filter[:-1], selected=0)
            case _ if len(key) == 1 and key.isprintable():
                return replace(self, filter=(self.filter + key)[:40], selected=0)
            case _:
                return self


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one screen shows. ``now`` is of the clock of `Seen.heard`; ``clock`` is the time of day, as shown."""

    seen: Seen
    view: View
    now: float
    clock: str
    endpoint: str
    reached: bool = True

    @property
    def silent(self) -> float:
        """Seconds since the broker was heard."""
        return self.now - self.seen.heard if self.seen.heard is not None else float("inf")

    def name_of(self, contributor: str) -> str:
        """What a contributor is called, as far as the leaderboard says."""
        board = self.seen.leaderboard
        names = (one.name for one in (board.contributors if board else ()) if one.contributor == contributor)
        return next(names, contributor)

    @property
    def workers(self) -> list[WorkerView]:
        """Those that the filter leaves, in the order that was chosen."""
        wanted = self.view.filter.lower()
        texts = ((one, f"{one.name}\n{self.name_of(one.contributor)}\n{one.job}") for one in self.seen.workers)
        found = [worker for worker, text in texts if wanted in text.lower()]
        return sorted(found, key=SORTS[self.view.sort])  # type: ignore[arg-type]
