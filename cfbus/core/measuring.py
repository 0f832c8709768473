"""What a worker measures of itself: its rate, which sizes its leases, and how busy its engine is kept, for people.

Pure: moments and counts come in with their time, figures go out. Nothing here decides anything.

Invariants: both meters keep a bounded number of samples; a reason is the one that was seen most often in the window.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cfbus.bus.figures import EngineFigures, HostFigures, Load, Reason, State
from cfbus.bus.messages import Heartbeat

BEAT_SECONDS = 5.0
NEWS_SECONDS = 1.0
RATE_WINDOW_SECONDS = 20.0
RATES_KEPT = 5
LOAD_SECONDS = 15.0
STARVED_SHARE = 0.1
"""An engine that had room, and nothing waiting for it, in so much of the time is called starved."""
MAX_SAMPLES = 64

IDLE: tuple[Reason, ...] = ("finished", "paused", "draining")
"""What is nobody's shortcoming: there is nothing to caption, or somebody wants it so."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the shell saw at one moment. ``engine`` is None while there is none, because it is being built anew."""

    engine: EngineFigures | None
    host: HostFigures | None = None
    spool_full: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """What the worker's core knows of itself at one moment. ``told`` is why the broker granted nothing, if it said."""

    level: int
    in_flight: int
    unstarted: int
    welcomed: bool
    draining: bool
    window_closed: bool
    told: str


def lacking(moment: Moment, measured: Measured) -> Reason:
    """What kept the engine from having enough to do at this moment; empty when it had."""
    engine = measured.engine
    if engine is None:
        return "engine-down"
    coming = engine.reading + engine.decoding
    if engine.waiting or moment.in_flight - coming >= moment.level or _at_level(engine):
        return ""
    if coming and (moment.in_flight >= moment.level or not moment.unstarted):
        return "reading" if engine.reading >= engine.decoding else "decoding"
    return _not_handed_out(moment, spool_full=measured.spool_full)


def _at_level(engine: EngineFigures) -> bool:
    return engine.level is not None and engine.running >= engine.level


def _not_handed_out(moment: Moment, *, spool_full: bool) -> Reason:
    """Why the engine was not given as many items as it takes."""
    held_back: tuple[tuple[bool, Reason], ...] = (
        (moment.draining, "draining"),
        (spool_full, "spool-full"),
        (moment.window_closed, "window-closed"),
        (moment.unstarted > 0, "handing-out"),
        (not moment.welcomed, "no-broker"),
        (moment.told == "finished", "finished"),
        (moment.told == "paused", "paused"),
    )
    return next((reason for applies, reason in held_back if applies), "no-lease")


class Sample(NamedTuple):
    """What was lacking at a moment, and how many items had been finished by then."""

    at: float
    lacked: Reason
    finished: int


def load_of(samples: Sequence[Sample]) -> Load:
    """What these samples, oldest first and at least one, say together."""
    first, last = samples[0], samples[-1]
    seconds = last.at - first.at
    rate = (last.finished - first.finished) / seconds if seconds > 0 else 0.0
    state, reason, share = _verdict([sample.lacked for sample in samples])
    return Load(state=state, reason=reason, starved=share, images_per_second=rate)


def _verdict(lacked: Sequence[Reason]) -> tuple[State, Reason, float]:
    if lacked[-1] == "engine-down":
        return "down", "engine-down", 0.0
    idle = [reason for reason in lacked if reason in IDLE]
    if 2 * len(idle) > len(lacked):
        return "idle", _most(idle), 0.0
    wanted = [reason for reason in lacked if reason not in IDLE]
    starved = [reason for reason in wanted if reason]
    if not starved:
        return "saturated", "", 0.0
    share = len(starved) / len(wanted)
    return ("starved" if share >= STARVED_SHARE else "busy"), _most(starved), share


def _most(reasons: Sequence[Reason]) -> Reason:
    return Counter(reasons).most_common(1)[0][0]


class LoadMeter:
    """Keeps the samples of the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._finished = 0

    def count(self, items: int) -> None:
        """So many items were finished."""
        self._finished += items

    def see(self, lacked: Reason, now: float) -> Load:
        """What was lacking now; the load of the last seconds."""
        self._samples.append(Sample(now, lacked, self._finished))
        while now - self._samples[0].at > LOAD_SECONDS:
            self._samples.popleft()
        return load_of(self._samples)


class Figures:
    """The newest figures, and when they are to be told."""

    def __init__(self, now: float) -> None:
        self._load = LoadMeter()
        self._newest = Heartbeat()
        self._told: Load | None = None
        self._told_at = now - BEAT_SECONDS

    def count(self, items: int) -> None:
        """So many items were finished."""
        self._load.count(items)

    def see(self, moment: Moment, measured: Measured, now: float) -> bool:
        """Whether the figures of this moment should be told: every few seconds, sooner when they say something else."""
        load = self._load.see(lacking(moment, measured), now)
        self._newest = Heartbeat(engine=measured.engine, load=load, host=measured.host)
        known = self._told is not None and (load.state, load.reason) == (self._told.state, self._told.reason)
        return now - self._told_at >= (BEAT_SECONDS if known else NEWS_SECONDS)

    def beat(self, rate: float, in_flight: int, held: int, unacked_bytes: int) -> Heartbeat:
        """All that is told of a worker beside its work."""
        own = {"rate": rate, "in_flight": in_flight, "held": held, "unacked_bytes": unacked_bytes}
        return self._newest.model_copy(update=own)

    def told(self, now: float) -> None:
        """They were told."""
        self._told, self._told_at = self._newest.load, now


class RateMeter:
    """Items per second: the slower of the last window's and the median of the last few; 0 until there is a window."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._rates: list[float] = []
        self._start: float | None = None
        self._count = 0

    def forget(self) -> None:
        """What comes now is of another kind; the rate stays until there is a new one."""
        self._rates.clear()

    def see(self, items: int, now: float) -> None:
        """So many were finished since the last call."""
        self._count += items
        if self._start is None:
            self._start, self._count = now, 0
            return
        seconds = now - self._start
        if seconds >= RATE_WINDOW_SECONDS:
            self._rates = [*self._rates[-RATES_KEPT + 1 :], self._count / seconds]
            self.rate = min(self._rates[-1], sorted(self._rates)[len(self._rates) // 2])
            self._start, self._count = now, 0
