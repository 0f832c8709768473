"""What those who watch are told of workers: what they said of themselves, in pages that fit."""

from __future__ import annotations

from typing import get_args

import pytest
from core.bus_rig import Rig, instance_of
from hypothesis import given
from hypothesis import strategies as st

from cfbus.bus import messages as m
from cfbus.bus.figures import MAX_GPUS, NAME_PATTERN, EngineFigures, GpuFigures, HostFigures, Load, Reason, State
from cfbus.core.snapshot import WorkerView
from cfbus.core.watching import status, view_bytes, workers

PAGE_BYTES = 32 * 1024
SHARE = st.none() | st.floats(0, 1)
COUNT = st.integers(0, (1 << 53) - 1)
RATE = st.floats(0, 1e9)
NAME = st.text(min_size=1, max_size=64)
TOLD = st.none() | st.from_regex(NAME_PATTERN, fullmatch=True)
ENGINES = st.builds(
    EngineFigures, reading=COUNT, decoding=COUNT, running=COUNT, waiting=COUNT, level=st.none() | COUNT,
    kv_usage=SHARE, prefix_hits=SHARE, image_hits=SHARE, tokens_per_second=st.none() | RATE,
)  # fmt: skip
LOADS = st.builds(
    Load, state=st.sampled_from(get_args(State)), reason=st.sampled_from(get_args(Reason)), starved=st.floats(0, 1),
    images_per_second=RATE,
)  # fmt: skip
GPUS = st.builds(
    GpuFigures, name=TOLD, utilisation=SHARE, memory_used=st.none() | COUNT, memory_total=st.none() | COUNT,
    celsius=st.none() | st.integers(-100, 1000), watts=st.none() | st.floats(0, 100_000),
)  # fmt: skip
HOSTS = st.builds(HostFigures, driver=TOLD, gpus=st.lists(GPUS, max_size=MAX_GPUS).map(tuple))
VIEWS = st.builds(
    WorkerView, name=NAME, contributor=NAME, instance=st.just("f" * 16), rate=RATE, in_flight=COUNT, leases=COUNT,
    unacked_bytes=COUNT, heard_seconds_ago=st.floats(0, 1e9), waiting=st.booleans(), engine=st.none() | ENGINES,
    load=st.none() | LOADS, host=st.none() | HOSTS,
)  # fmt: skip


@given(VIEWS)
def test_no_worker_takes_more_of_a_page_than_is_reckoned(view: WorkerView) -> None:
    assert len(view.model_dump_json().encode()) + 1 <= view_bytes(view)


def beat(gpus: int) -> m.Heartbeat:
    odd = 0.12345678901234567
    gpu = GpuFigures(
        name="x" * 64, utilisation=odd, memory_used=1 << 52, memory_total=1 << 52, celsius=-100, watts=12345.678901234
    )
    engine = EngineFigures(running=1 << 52, waiting=1 << 52, kv_usage=odd, prefix_hits=odd, tokens_per_second=odd * 1e8)
    load = Load(state="starved", reason="window-closed", starved=odd)
    return m.Heartbeat(rate=odd, engine=engine, load=load, host=HostFigures(driver="1", gpus=(gpu,) * gpus))


def crowd(count: int, gpus: int) -> Rig:
    rig = Rig()
    for number in range(count):
        name = f"ann{number}"
        hello = m.Hello(role=m.Role.WORKER, instance=f"{number:016x}", software="t", name="\x01" * 64)
        rig.say(name, hello)
        rig.say(name, beat(gpus))
    return rig


@pytest.mark.parametrize("gpus", [0, 1, 8, MAX_GPUS])
def test_every_worker_is_on_one_page_and_every_page_fits(gpus: int) -> None:
    rig = crowd(70, gpus)
    pages = workers(rig.broker, rig.now)
    assert [view.instance for page in pages for view in page.workers] == [f"{at:016x}" for at in range(70)]
    assert [page.first for page in pages] == [sum(len(p.workers) for p in pages[:at]) for at in range(len(pages))]
    assert {page.total for page in pages} == {70}
    assert max(len(page.model_dump_json()) for page in pages) <= PAGE_BYTES


def test_nobody_is_a_page_too() -> None:
    rig = Rig()
    (page,) = workers(rig.broker, rig.now)
    assert (page.first, page.total, page.workers) == (0, 0, ())


def test_the_newest_figures_are_shown_and_starved_workers_counted() -> None:
    rig = Rig()
    for name in ("ann", "bob"):
        rig.say(name, m.Hello(role=m.Role.WORKER, instance=instance_of(name), software="t", name=name))
    rig.say("ann", beat(2))
    ann, bob = workers(rig.broker, rig.now)[0].workers
    assert (ann.engine, ann.load, ann.host) == (beat(2).engine, beat(2).load, beat(2).host)
    assert (bob.engine, bob.load, bob.host) == (None, None, None)
    assert status(rig.broker, rig.now).workers_starved == 1
    rig.say("ann", m.Heartbeat(load=Load(state="saturated")))
    ann, _ = workers(rig.broker, rig.now)[0].workers
    assert (ann.engine, ann.host, ann.load) == (None, None, Load(state="saturated"))
    assert status(rig.broker, rig.now).workers_starved == 0
