"""A pass over some items only: how it comes to the broker, what of it is leased, how it ends."""

from __future__ import annotations

from core.bus_rig import Rig, instance_of

from cfbus.bus import messages as m
from cfbus.core import effects as e

FACTS = m.PassFacts(number=2, slots=("a",), items=6, overrides=(("length", "9"),))
SELECTED = [(0, 2, 3), (0, 5, 8), (0, 12, 14)]


def finished() -> Rig:
    """All of the first pass is done, and nothing is to do; ann waits."""
    rig = Rig()
    rig.connect_writer()
    rig.writer.inventory.know_done((1, 0), [(0, 20)])
    rig.say("admin", m.Hello(role=m.Role.ADMIN, instance=instance_of("admin"), software="t", name="admin"))
    rig.carry_out(rig.broker.settle(rig.broker.catchup.again(rig.now), rig.now))
    assert rig.broker.finished
    rig.join("ann")
    rig.say("ann", m.Lease(want=64, rate=0.0))
    return rig


def test_it_is_leased_when_all_that_it_is_over_has_come() -> None:
    rig = finished()
    pages = [effect for effect in rig.writer.pass_opened(FACTS, SELECTED) if isinstance(effect, e.Send)]
    rig.say(rig.writer_link, pages[0].message, pages[0].payload)
    assert 2 not in rig.broker.passes
    assert not rig.heard("ann", m.Grant)
    rig.say(rig.writer_link, pages[1].message, pages[1].payload)
    assert rig.broker.passes[2].items == 6
    (grant,) = rig.heard("ann", m.Grant)
    assert (grant.pass_number, grant.start, grant.overrides) == (2, 2, FACTS.overrides)
    assert set(grant.done) >= {(3, 5)}


def test_a_page_that_is_lost_is_asked_for_again() -> None:
    rig = finished()
    pages = [effect for effect in rig.writer.pass_opened(FACTS, SELECTED) if isinstance(effect, e.Send)]
    rig.say(rig.writer_link, pages[0].message, pages[0].payload)
    rig.write(rig.writer.tick(rig.now + 2))
    assert rig.broker.passes[2].items == 6
    assert rig.broker.writer is not None
    assert rig.broker.writer.caught_up


def test_what_it_is_not_over_is_a_duplicate() -> None:
    rig = finished()
    rig.write(rig.writer.pass_opened(FACTS, SELECTED))
    (grant,) = rig.heard("ann", m.Grant)
    message, payload = rig.result(grant, 3, 5, instance_of("ann"), 1)
    rig.say("ann", message, payload)
    (acked,) = rig.heard("ann", m.Ack)[-1].results
    assert acked.status == "duplicate"
    assert (2, 0) not in rig.writer.inventory.done()


def test_closed_it_is_complete_and_its_leases_end() -> None:
    rig = finished()
    rig.write(rig.writer.pass_opened(FACTS, SELECTED))
    assert rig.broker.passes[2].held_items
    rig.write(rig.writer.pass_opened(FACTS.model_copy(update={"closed": True})))
    assert rig.broker.finished
    assert rig.broker.passes[2].closed
    assert not list(rig.broker.leases.current())


def test_a_redo_goes_before_what_is_to_do_anyway() -> None:
    rig = Rig()
    rig.connect_writer()
    rig.write(rig.writer.pass_opened(FACTS, SELECTED))
    rig.join("ann")
    rig.say("ann", m.Lease(want=64, rate=0.0))
    assert rig.heard("ann", m.Grant)[0].pass_number == 2


def test_nothing_is_finished_and_no_slot_goes_while_one_may_be_opened() -> None:
    rig = finished()
    task = m.Task(task="9" * 16, kind="amend", slots=("a",), verb="requeue")
    rig.broker.catchup.give(task)
    assert not rig.broker.finished
    gone = rig.broker.rules.spec.model_copy(update={"slots": (m.Slot(name="b", prompt="x", prompt_id="p"),)})
    assert any("captions.slots.a" in problem for problem in rig.broker.configuring.problems(gone))
    rig.say(rig.writer_link, m.Done(task=task.task))
    assert rig.broker.finished


def ask(rig: Rig, verb: str, **arguments: str) -> m.Reply:
    named = tuple((name.replace("_", "-"), value) for name, value in arguments.items())
    rig.say("admin", m.Admin(request="7" * 16, verb=verb, arguments=named))
    return rig.heard("admin", m.Reply)[-1]


def test_an_admin_begins_a_task_and_asks_what_came_of_it() -> None:
    rig = finished()
    begun = ask(rig, "requeue", where="slot = 'a'")
    (task,) = [message for message, _ in rig.sent[rig.writer_link] if isinstance(message, m.Task) and message.verb]
    assert begun.facts == (("task", task.task),)
    assert dict(task.arguments) == {"where": "slot = 'a'", "who": "admin"}
    assert ask(rig, "task", task=task.task).facts == (("state", "running"),)
    rig.say(rig.writer_link, m.Done(task=task.task, facts=(("passes", "2"),), columns=("slot",), rows=(("a",),)))
    told = ask(rig, "task", task=task.task)
    assert (told.facts, told.rows) == ((("state", "done"), ("passes", "2")), (("a",),))
    assert [row[1:] for row in ask(rig, "task").rows] == [("requeue", "admin", "done")]
    assert "no task" in ask(rig, "task", task="8" * 16).problem


def test_what_cannot_be_is_said_before_the_writer_hears_of_it() -> None:
    rig = finished()
    for verb, arguments, said in (
        ("requeue", {}, "Say which captions"),
        ("requeue", {"where": "true", "slot": "zz"}, "no slot 'zz'"),
        ("requeue", {"where": "true", "set": '{"max_tokens": 5}'}, "cannot be set"),
        ("requeue", {"where": "true", "set": "[]"}, "JSON object"),
        ("revoke-rows", {}, "Say one of: --contributor"),
        ("revoke-rows", {"key": "k", "worker": "w"}, "Say one of"),
        ("revoke-rows", {"key": "k", "since": "yesterday"}, "microseconds"),
        ("takedown", {"sha256": "abc"}, "64 hexadecimal"),
        ("restore", {"tombstone": "x"}, "number of the tombstone"),
        ("close-pass", {"pass": "1"}, "no open redo with the number 1"),
    ):
        assert said in ask(rig, verb, **arguments).problem, (verb, arguments)
    assert not [message for message, _ in rig.sent[rig.writer_link] if isinstance(message, m.Task) and message.verb]
    rig.broker.writer = None
    assert "writer is away" in ask(rig, "requeue", where="true").problem
