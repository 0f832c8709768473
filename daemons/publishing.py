"""The broker's statistics as they go out: each topic whole, every second or two, to those who subscribed.

Knows topics and when they are due; what they say is `cfbus.core.watching`'s. Nothing here waits: a subscriber that
cannot keep up misses messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from pydantic import BaseModel

from cfbus.bus import sockets
from cfbus.core.broker import Broker
from cfbus.core.effects import Note
from cfbus.core.snapshot import Activity, Happening, Refusals
from cfbus.core.watching import leaderboard, quality, status, throughput, workers

STATS_SECONDS = 1.0
SLOW_SECONDS = 2.0
WORKERS_SECONDS = 5.0
MANY_PAGES = 16
EVENTS_KEPT = 60
_FACT_CHARS = 120
DULL = frozenset({"lease.granted"})
"""Events that come all the time and say nothing by themselves."""


class Publisher:
    """What was told when, and what happened lately."""

    def __init__(self, socket: sockets.Socket) -> None:
        self._socket = socket
        self._watchers = 0
        self._status_at = self._slow_at = self._workers_at = 0.0
        self._last: tuple[object, ...] = ()
        self._events: deque[Happening] = deque(maxlen=EVENTS_KEPT)

    def happened(self, note: Note, wall: int) -> None:
        """For the activity; ``wall`` in microseconds UTC."""
        if note.event not in DULL:
            facts = tuple((name, str(value)[:_FACT_CHARS]) for name, value in note.facts)
            self._events.append(Happening(at=wall / 1e6, event=note.event, facts=facts))

    def subscriptions(self, messages: Iterable[list[sockets.Buffer]]) -> None:
        """Somebody subscribed to a topic, or stopped."""
        for frames in messages:
            self._watchers += {b"\1": 1, b"\0": -1}.get(bytes(frames[0][:1]), 0)
        self._status_at = self._slow_at = self._workers_at = 0.0

    @property
    def next_at(self) -> float:
        """When something is due; never while nobody watches."""
        return min(self._status_at, self._slow_at, self._workers_at) if self._watchers > 0 else float("inf")

    def publish(self, core: Broker, at: float, refusals: Callable[[], Mapping[str, int]]) -> None:
        """What is due; the state of the run at once when it is finished, sealed, paused or in trouble."""
        if self._watchers <= 0:
            return
        key = (core.finished, core.catchup.sealed, core.catchup.problem, core.paused)
        if at >= self._status_at or key != self._last:
            self._last, self._status_at = key, at + STATS_SECONDS
            self._tell(b"status", status(core, at))
        if at >= self._slow_at:
            self._slow_at = at + SLOW_SECONDS
            self._tell(b"throughput", throughput(core))
            self._tell(b"quality", quality(core))
            self._tell(b"leaderboard", leaderboard(core))
            self._tell(b"activity", Activity(events=tuple(self._events)))
            self._tell(b"refusals", Refusals(counts=dict(refusals())))
        if at >= self._workers_at:
            pages = workers(core, at)
            self._workers_at = at + (WORKERS_SECONDS if len(pages) > MANY_PAGES else STATS_SECONDS)
            for page in pages:
                self._tell(b"workers", page)

    def _tell(self, topic: bytes, content: BaseModel) -> None:
        sockets.send(self._socket, None, [topic, content.model_dump_json().encode()])
