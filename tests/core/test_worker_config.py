"""A worker is told of a new configuration: it begins by that from then on, says so, and again when asked again."""

from __future__ import annotations

import pytest

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import encode_table
from cfbus.core import effects as e
from cfbus.core.outcome import EngineFacts
from cfbus.core.worker import Worker, WorkerRules

LEASE = "a" * 16


def spec_of(*slots: str) -> m.Spec:
    made = tuple(m.Slot(name=name, prompt="write", prompt_id="p") for name in slots)
    return m.Spec(hash="e" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=made)


def welcome(generation: int, spec: m.Spec) -> m.Welcome:
    return m.Welcome(
        software="t", store_id=None, dataset="d", heartbeat_seconds=2.0, lease_seconds=10.0, window=1 << 20,
        generation=generation, spec=spec,
    )  # fmt: skip


def config(generation: int, spec: m.Spec) -> m.Config:
    return m.Config(generation=generation, lease_seconds=10.0, spec=spec)


@pytest.fixture
def worker() -> Worker:
    worker = Worker(WorkerRules("b" * 16, "ann", 4), EngineFacts("x", "y"), 0.0)
    worker.connected(0.0)
    worker.handle(welcome(1, spec_of("a")), b"", 0.0)
    worker.applied("applied")
    return worker


def answers(effects: list[e.Effect]) -> list[tuple[int, str]]:
    sent = [each.message for each in effects if isinstance(each, e.Send)]
    return [(each.generation, each.outcome) for each in sent if isinstance(each, m.Applied)]


def test_a_new_generation_is_used_and_answered_by_the_shell(worker: Worker) -> None:
    effects = worker.handle(config(2, spec_of("a")), b"", 1.0)
    assert e.UseSpec(spec_of("a"), 2) in effects
    assert answers(effects) == [], "nobody has looked whether it can be used"
    assert answers(worker.applied("refused", "x" * 5000)) == [(2, "refused")]


def test_what_is_told_again_is_answered_again_and_not_used_again(worker: Worker) -> None:
    for message in (config(1, spec_of("a")), welcome(1, spec_of("a"))):
        effects = worker.handle(message, b"", 1.0)
        assert answers(effects) == [(1, "applied")]
        assert not any(isinstance(each, e.UseSpec) for each in effects)


def test_an_answer_is_never_of_another_generation(worker: Worker) -> None:
    worker.handle(config(2, spec_of("a")), b"", 1.0)
    assert answers(worker.handle(config(2, spec_of("a")), b"", 1.0)) == [], "the answer to 1 was given to 2"


def test_without_a_broker_nothing_is_sent_and_the_answer_is_kept(worker: Worker) -> None:
    worker.handle(config(2, spec_of("a")), b"", 1.0)
    worker.connected(2.0)
    assert worker.applied("applied") == []
    assert answers(worker.handle(welcome(2, spec_of("a")), b"", 2.0)) == [(2, "applied")]


def test_what_has_a_slot_without_a_prompt_waits_for_one(worker: Worker) -> None:
    grant = m.Grant(
        lease=LEASE, pass_number=2, shard=0, shard_name="s0", start=0, end=2, slots=("z",), backup=False, ttl=10.0,
        window=1 << 20,
    )  # fmt: skip
    worker.handle(grant, encode_table(build("listing", 2, {"key": ["k"] * 2, "locator": [b""] * 2})), 1.0)
    assert worker.next_items(9) == []
    worker.handle(config(2, spec_of("a", "z")), b"", 1.0)
    assert len(worker.next_items(9)) == 2
