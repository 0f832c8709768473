"""The scripted engine: what it says follows from seed and item, when it says it from the rate."""

from __future__ import annotations

import time

from engine_rig import LEASE, Outcomes, blame, items_of, spec_of
from hypothesis import given
from hypothesis import strategies as st

from cfbus.core.outcome import Outcome
from cfbus.engines.scripted import ScriptedEngine, caption_of

SLOTS = {"short": "s", "tags": "t"}


def engine_with(**options: float) -> tuple[ScriptedEngine, Outcomes]:
    outcomes = Outcomes()
    engine = ScriptedEngine(outcomes.post)
    engine.use(spec_of("scripted", SLOTS, **options))
    return engine, outcomes


def written(count: int, **options: float) -> list[Outcome]:
    engine, outcomes = engine_with(**options)
    engine.submit(items_of(count, SLOTS))
    engine.close()
    return outcomes.all


def test_a_caption_belongs_to_its_item_and_slot_and_has_the_length_asked_for() -> None:
    outcomes = written(200, length=120)
    assert [outcome.index for outcome in outcomes] == list(range(200))
    for outcome in outcomes:
        texts = [caption.text for caption in outcome.captions]
        assert [text.split(":")[0] for text in texts] == [f"{slot} of item-{outcome.index:05d}" for slot in SLOTS]
        assert {len(text) for text in texts} == {120}


@given(st.text(max_size=20), st.text(max_size=40), st.integers(-5, 200))
def test_no_length_cuts_off_whose_caption_it_is(slot: str, key: str, length: int) -> None:
    text = caption_of(slot, key, length, "x" * 300)
    assert text.startswith(f"{slot} of {key}")
    assert len(text) == max(length, len(slot) + len(key) + 4)


def test_the_same_seed_says_the_same_and_another_something_else() -> None:
    assert written(50, seed=3, failures=0.2) == written(50, seed=3, failures=0.2)
    assert written(50, seed=3) != written(50, seed=4)


def test_the_share_of_failures_is_kept_and_the_same_items_fail_again() -> None:
    def failed(**options: float) -> set[int]:
        return {outcome.index for outcome in written(3000, length=20, **options) if outcome.failure is not None}

    assert 500 < len(failed(failures=0.2, seed=1)) < 700
    assert failed(failures=0.2, seed=1) == failed(failures=0.2, seed=1) < failed(failures=0.5, seed=1)
    assert failed(failures=0.2, seed=1) != failed(failures=0.2, seed=2)
    assert failed() == set()
    assert len(failed(failures=1.0)) == 3000
    assert {blame(outcome) for outcome in written(50, failures=1.0)} == {("scripted", "item")}


def test_the_rate_is_roughly_kept() -> None:
    engine, outcomes = engine_with(rate=200)
    began = time.monotonic()
    engine.submit(items_of(100))
    outcomes.wait_for(100)
    assert 0.3 < time.monotonic() - began < 10  # half a second on an idle machine
    engine.close()


def test_a_worker_may_be_so_many_times_as_fast() -> None:
    outcomes = Outcomes()
    engine = ScriptedEngine(outcomes.post, speed=1000.0)
    engine.use(spec_of("scripted", SLOTS, rate=0.1))
    began = time.monotonic()
    engine.submit(items_of(5))
    outcomes.wait_for(5)
    assert time.monotonic() - began < 50 / 2  # alone, the rate would take fifty seconds
    engine.close()


def test_a_new_rate_holds_for_later_items_only() -> None:
    engine, outcomes = engine_with(rate=100, length=50)
    engine.submit(items_of(5))
    engine.use(spec_of("scripted", SLOTS, length=90))
    engine.submit(items_of(5, start=5))
    lengths = {index: len(outcome.captions[0].text) for index, outcome in outcomes.wait_for(10).items()}
    assert lengths == {index: 50 if index < 5 else 90 for index in range(10)}
    engine.close()


def test_what_is_abandoned_does_not_come_out() -> None:
    engine, outcomes = engine_with(rate=100)
    engine.submit(items_of(30))
    engine.abandon(LEASE, frozenset(range(10, 29)))
    engine.abandon("00000000000000bb", frozenset({29}))
    assert set(outcomes.wait_for(11)) == {*range(10), 29}
    engine.close()
    assert len(outcomes.all) == 11


def test_what_was_abandoned_too_late_or_is_asked_for_again_comes_out() -> None:
    engine, outcomes = engine_with(rate=1000)
    engine.submit(items_of(1))
    outcomes.wait_for(1)
    engine.abandon(LEASE, frozenset({0}))
    engine.submit(items_of(1))
    outcomes.wait(lambda found: len(found) == 2)
    engine.submit(items_of(20, start=1))
    engine.abandon(LEASE, frozenset({20}))
    engine.submit(items_of(1, start=20))
    outcomes.wait(lambda found: [outcome.index for outcome in found].count(20) == 1)
    engine.close()
    assert [outcome.index for outcome in outcomes.all].count(20) == 1


def test_at_rate_zero_an_item_costs_microseconds() -> None:
    engine = ScriptedEngine(lambda outcome: None)
    engine.use(spec_of("scripted", SLOTS))
    items = items_of(64)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        engine.submit(items)
        times.append((time.perf_counter() - began) / len(items))
    assert min(times) < 10e-6  # 2.5 on an idle core
