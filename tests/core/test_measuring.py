"""How busy an engine is kept, and when that is told."""

from __future__ import annotations

import dataclasses

import pytest

from cfbus.bus import messages as m
from cfbus.bus.figures import EngineFigures, GpuFigures, HostFigures, Reason
from cfbus.core import effects as e
from cfbus.core.measuring import (
    BEAT_SECONDS,
    LOAD_SECONDS,
    MAX_SAMPLES,
    NEWS_SECONDS,
    LoadMeter,
    Measured,
    Moment,
    Sample,
    lacking,
    load_of,
)
from cfbus.core.outcome import EngineFacts
from cfbus.core.worker import Worker, WorkerRules

FULL = Moment(level=8, in_flight=8, unstarted=20, welcomed=True, draining=False, window_closed=False, told="")
BARE = dataclasses.replace(FULL, in_flight=0, unstarted=0)
HAS_ROOM = EngineFigures(running=2, level=4)


def lacks(moment: Moment, engine: EngineFigures | None, *, spool_full: bool = False) -> Reason:
    return lacking(moment, Measured(engine, spool_full=spool_full))


@pytest.mark.parametrize(
    ("moment", "engine", "reason"),
    [
        (FULL, EngineFigures(running=8), ""),  # all that may be in flight is in the engine
        (FULL, EngineFigures(running=4, level=4, reading=4), ""),  # it cannot take more
        (FULL, EngineFigures(running=1, waiting=1, reading=6), ""),
        (FULL, EngineFigures(running=2, level=4, reading=4, decoding=2), "reading"),
        (FULL, EngineFigures(running=2, level=4, reading=2, decoding=4), "decoding"),
        (dataclasses.replace(BARE, in_flight=3), EngineFigures(running=2, level=4, decoding=1), "decoding"),
        (dataclasses.replace(FULL, in_flight=2), HAS_ROOM, "handing-out"),
        (BARE, HAS_ROOM, "no-lease"),
        (dataclasses.replace(BARE, told="nothing-free"), HAS_ROOM, "no-lease"),
        (dataclasses.replace(BARE, welcomed=False, told="finished"), HAS_ROOM, "no-broker"),
        (dataclasses.replace(FULL, in_flight=2, window_closed=True), HAS_ROOM, "window-closed"),
        (dataclasses.replace(FULL, in_flight=2, draining=True), HAS_ROOM, "draining"),
        (dataclasses.replace(BARE, told="finished"), HAS_ROOM, "finished"),
        (dataclasses.replace(BARE, told="paused"), HAS_ROOM, "paused"),
        (FULL, None, "engine-down"),
    ],
)
def test_what_is_lacking(moment: Moment, engine: EngineFigures | None, reason: str) -> None:
    assert lacks(moment, engine) == reason


def test_a_full_spool_is_told_before_what_follows_from_it() -> None:
    moment = dataclasses.replace(FULL, in_flight=2, window_closed=True)
    assert lacks(moment, HAS_ROOM, spool_full=True) == "spool-full"


def samples(*reasons: Reason) -> list[Sample]:
    return [Sample(float(at), reason, 3 * at) for at, reason in enumerate(reasons)]


@pytest.mark.parametrize(
    ("reasons", "state", "reason", "share"),
    [
        (("",) * 20, "saturated", "", 0.0),
        (("",) * 19 + ("reading",), "busy", "reading", 0.05),
        (("",) * 18 + ("reading",) * 2, "starved", "reading", 0.1),
        (("decoding", "reading", "decoding", ""), "starved", "decoding", 0.75),
        (("no-lease", "finished", "finished"), "idle", "finished", 0.0),
        (("no-lease", "paused"), "starved", "no-lease", 1.0),
        (("", "", "engine-down"), "down", "engine-down", 0.0),
        (("engine-down", ""), "starved", "engine-down", 0.5),
    ],
)
def test_what_a_window_says(reasons: tuple[Reason, ...], state: str, reason: str, share: float) -> None:
    load = load_of(samples(*reasons))
    assert (load.state, load.reason) == (state, reason)
    assert load.starved == pytest.approx(share)
    assert load.images_per_second == pytest.approx(3.0)


def test_the_window_forgets_and_is_bounded() -> None:
    meter = LoadMeter()
    for at in range(10 * MAX_SAMPLES):
        meter.see("reading", at / 100)
    meter.count(30)
    late = 10 * MAX_SAMPLES / 100
    assert meter.see("", late + LOAD_SECONDS - 1).starved > 0
    load = meter.see("", late + 3 * LOAD_SECONDS)
    assert (load.state, load.images_per_second) == ("saturated", 0.0)


# When it is told


def worker() -> Worker:
    own = Worker(WorkerRules("a" * 16, "ann", 4), EngineFacts("scripted", "none"), 0.0)
    own.connected(0.0)
    welcome = m.Welcome(
        software="t", store_id=None, dataset="d", heartbeat_seconds=2.0, lease_seconds=10.0, window=1 << 20,
        generation=1, spec=None,
    )  # fmt: skip
    own.handle(welcome, b"", 0.0)
    return own


def beats(effects: list[e.Effect]) -> list[m.Heartbeat]:
    return [each.message for each in effects if isinstance(each, e.Send) and isinstance(each.message, m.Heartbeat)]


FULL_ENGINE = EngineFigures(running=4, waiting=4)


def test_figures_are_told_every_few_seconds_and_sooner_when_something_else_is_lacking() -> None:
    own = worker()
    told = [at / 2 for at in range(60) if beats(own.measured(Measured(FULL_ENGINE), at / 2))]
    assert told == [BEAT_SECONDS * at for at in range(6)]
    assert not beats(own.measured(Measured(None), 25.0 + NEWS_SECONDS / 2))
    (news,) = beats(own.measured(Measured(None), 26.0))
    assert news.load is not None
    assert (news.load.state, news.engine) == ("down", None)
    assert not beats(own.measured(Measured(FULL_ENGINE), 26.0 + NEWS_SECONDS / 2))


def test_a_beat_holds_what_was_measured_last_and_goes_to_a_broker_alone() -> None:
    own = worker()
    host = HostFigures(driver="1.2", gpus=(GpuFigures(name="X"),))
    own.measured(Measured(FULL_ENGINE, host), 1.0)
    (beat,) = beats(own.tick(6.0))  # without leases it says that it is there anyway
    assert (beat.engine, beat.host) == (FULL_ENGINE, host)
    assert beat == own.heartbeat()
    away = Worker(WorkerRules("a" * 16, "ann", 4), EngineFacts("scripted", "none"), 0.0)
    assert not away.measured(Measured(FULL_ENGINE), 9.0)
