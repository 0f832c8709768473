"""A configuration changes while the broker serves: it is numbered, told until it is answered, and costs no pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.bus_rig import Rig, instance_of

from cfbus.bus import messages as m
from cfbus.core import effects as e
from cfbus.core.configuring import MOST_TELLINGS, TELL_AGAIN_SECONDS, Settings
from cfbus.core.limits import Limits
from cfbus.core.state import Remembered


def spec_of(*slots: str, prompt: str = "write") -> m.Spec:
    made = tuple(m.Slot(name=name, prompt=prompt, prompt_id="p") for name in slots)
    known = f"{abs(hash((slots, prompt))) % (1 << 64):016x}"
    return m.Spec(hash=known, engine="scripted", pixel_budget=1, max_pixels=1, slots=made)


def settings(rig: Rig, **changed: object) -> Settings:
    rules = rig.broker.rules
    held = Settings(rules.spec, rules.chunk_size, rules.lease_seconds, rules.max_attempts, rules.limits)
    return replace(held, **changed)  # type: ignore[arg-type]


def change(rig: Rig, **changed: object) -> list[e.Effect]:
    effects = rig.broker.configuring.change(settings(rig, **changed), rig.now)
    rig.carry_out(effects)
    rig.broker.check()
    return effects


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.connect_writer()
    rig.join("ann")
    return rig


def told(rig: Rig, name: str = "ann") -> list[int]:
    return [each.generation for each in rig.heard(name, m.Config)]


def answers(rig: Rig) -> dict[str, str]:
    return {each.worker: each.outcome for each in rig.broker.configuring.answers()}


def test_a_generation_is_remembered_before_anybody_is_told(rig: Rig) -> None:
    effects = change(rig, spec=spec_of("a", prompt="sing"))
    kinds = [type(each) for each in effects]
    assert kinds.index(e.SaveGeneration) < kinds.index(e.Send)
    assert told(rig) == [2]
    assert rig.broker.rules.generation == 2


def test_another_limit_of_leases_holds_for_who_waits() -> None:
    rig = Rig(limits=Limits(leases=1))
    rig.connect_writer()
    rig.join("ann")
    rig.lease("ann")
    rig.say("ann", m.Lease(want=8, rate=0.0))
    assert rig.heard("ann", m.Wait)[-1].reason == "too-many-leases"
    rig.tick(2.0)
    assert len(rig.heard("ann", m.Grant)) == 1
    change(rig, limits=Limits(leases=2))
    rig.tick(2.0)
    assert len(rig.heard("ann", m.Grant)) == 2
    assert rig.broker.rules.leases_per_key == 2


def test_who_hears_an_older_generation_later_is_told_the_one_that_holds_again(rig: Rig) -> None:
    change(rig, chunk_size=5)
    change(rig, chunk_size=6)
    rig.say("ann", m.Applied(generation=3, outcome="applied"))
    rig.say("ann", m.Applied(generation=2, outcome="applied"))
    before = len(told(rig))
    rig.tick(TELL_AGAIN_SECONDS + 1)
    assert told(rig)[before:] == [3]
    rig.say("ann", m.Applied(generation=3, outcome="applied"))
    rig.say("ann", m.Heartbeat())
    rig.tick(2 * TELL_AGAIN_SECONDS)
    assert told(rig)[before:] == [3], "it has answered"


def test_what_is_as_it_was_changes_nothing(rig: Rig) -> None:
    assert change(rig) == []
    assert rig.broker.rules.generation == 1
    assert told(rig) == []


def test_what_the_writer_could_not_do_is_tried_again_though_nothing_differs() -> None:
    rig = Rig()
    rig.task_problem = "/photos is no folder."
    rig.connect_writer()
    rig.tick(60)
    scans = [each for each in rig.heard(rig.writer_link, m.Task) if each.kind == "scan"]
    assert len(scans) == 1
    assert rig.broker.catchup.problem == "/photos is no folder."
    rig.task_problem = ""
    change(rig)
    scans = [each for each in rig.heard(rig.writer_link, m.Task) if each.kind == "scan"]
    assert len(scans) == 2
    assert rig.broker.catchup.problem == ""
    assert rig.broker.rules.generation == 1


def test_a_restart_goes_on_counting_and_gives_no_number_twice() -> None:
    same = Rig(remembered=Remembered(generation=7, spec="e" * 16))
    assert same.broker.rules.generation == 7
    other = Rig(remembered=Remembered(generation=7, spec="f" * 16))
    assert other.broker.rules.generation == 8
    saved = [each for each in other.broker.settle([], other.now) if isinstance(each, e.SaveGeneration)]
    assert saved == [e.SaveGeneration(8, "e" * 16)]


def test_who_does_not_answer_is_told_again_but_not_for_ever(rig: Rig) -> None:
    rig.say("ann", m.Applied(generation=1, outcome="applied"))
    change(rig, chunk_size=3)
    assert answers(rig) == {"ann": "asked"}
    for _ in range(2 * MOST_TELLINGS):
        rig.say("ann", m.Heartbeat())
        rig.tick(TELL_AGAIN_SECONDS)
    assert told(rig) == [2] * MOST_TELLINGS
    rig.say("ann", m.Applied(generation=2, outcome="applied"))
    assert answers(rig) == {"ann": "applied"}


def test_an_answer_ends_it_and_one_to_an_older_generation_does_not(rig: Rig) -> None:
    change(rig, chunk_size=3)
    rig.say("ann", m.Applied(generation=1, outcome="applied"))
    assert answers(rig) == {"ann": "asked"}
    rig.say("ann", m.Applied(generation=2, outcome="refused", reason="no such model"))
    assert [each.reason for each in rig.broker.configuring.answers()] == ["no such model"]
    for _ in range(2):
        rig.say("ann", m.Heartbeat())
        rig.tick(TELL_AGAIN_SECONDS)
    assert told(rig) == [2]
    change(rig, chunk_size=4)
    assert answers(rig) == {"ann": "asked"}, "what was said to an older one is shown for the newest"


def test_a_new_slot_opens_a_pass(rig: Rig) -> None:
    effects = rig.broker.configuring.change(settings(rig, spec=spec_of("a", "b")), rig.now)
    tasks = [each.message for each in effects if isinstance(each, e.Send) and isinstance(each.message, m.Task)]
    assert [task.slots for task in tasks if task.kind == "open-pass"] == [("b",)]


def test_a_slot_stays_until_its_pass_is_complete(rig: Rig) -> None:
    (why,) = rig.broker.configuring.problems(spec_of("b"))
    assert why == "captions.slots.a cannot go before pass 1, which writes it, is complete"
    rig.broker.passes[1].mark_done(0, [(0, rig.length)])
    assert rig.broker.configuring.problems(spec_of("b")) == []


def test_a_slot_stays_while_it_is_not_known_what_is_done() -> None:
    rig = Rig()
    assert rig.broker.configuring.problems(spec_of("a")) == []
    (why,) = rig.broker.configuring.problems(spec_of("b"))
    assert "not known" in why


def test_a_slot_stays_while_a_pass_is_opened_for_it(rig: Rig) -> None:
    rig.broker.passes[1].mark_done(0, [(0, rig.length)])
    rig.broker.rules = replace(rig.broker.rules, spec=spec_of("a", "b"))
    rig.broker.settle([], rig.now)
    assert rig.broker.catchup.opening == ("b",)
    (why,) = rig.broker.configuring.problems(spec_of("a"))
    assert why == "captions.slots.b cannot go while a pass is opened for it"


def test_attempts_and_leases_go_by_the_new_rules(rig: Rig) -> None:
    change(rig, max_attempts=1, lease_seconds=99.0, chunk_size=2)
    grant = rig.lease("ann")
    assert grant.ttl == 99.0
    assert grant.end - grant.start == 2
    item = m.FailedItem(index=grant.start, reason="broken", fault="item")
    rig.say("ann", m.Failed(lease=grant.lease, instance=instance_of("ann"), number=1, items=(item,)))
    assert rig.broker.verdicts.undelivered


def test_a_worker_that_answers_time_and_again_fills_no_log(rig: Rig) -> None:
    for number in range(5):
        rig.say("ann", m.Applied(generation=1, outcome="refused", reason=f"because of {number}"))
    notes = [each for each in rig.effects if isinstance(each, e.Note) and each.event == "config.answered"]
    assert len(notes) == 1
