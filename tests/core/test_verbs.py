"""What admins ask of a run: each verb tells the truth, refuses with what is missing, and changes what it says."""

from __future__ import annotations

import pytest
from core.bus_rig import Rig, instance_of

from cfbus.bus import messages as m
from cfbus.core import effects as e
from cfbus.core.asking import CONFIG_VERBS
from cfbus.core.verbs import READS, VERBS


def ready(*names: str, **rules: object) -> Rig:
    """Workers that hold a lease each."""
    rig = Rig(**rules)  # type: ignore[arg-type]
    rig.connect_writer()
    for name in names:
        rig.join(name)
        rig.lease(name)
    return rig


def fail(rig: Rig, name: str, lease: m.Grant, index: int) -> None:
    item = m.FailedItem(index=index, reason="broken", fault="item")
    rig.say(name, m.Failed(lease=lease.lease, instance=instance_of(name), number=1, items=(item,)))


def ask(rig: Rig, verb: str, page: int = 0, **arguments: str) -> m.Reply:
    told = tuple((name.replace("_", "-"), value) for name, value in arguments.items())
    effects = rig.say("admin", m.Admin(request=instance_of("admin"), verb=verb, arguments=told, page=page))
    (reply,) = [it.message for it in effects if isinstance(it, e.Send) and isinstance(it.message, m.Reply)]
    return reply


def asked(rig: Rig) -> list[tuple[str, str]]:
    return [(it.request.verb, it.outcome.partition(":")[0]) for it in rig.effects if isinstance(it, e.NoteCall)]


@pytest.fixture
def rig() -> Rig:
    rig = ready("ann", "bob")
    rig.say("admin", m.Hello(role=m.Role.ADMIN, instance=instance_of("admin"), software="t", name="admin"))
    return rig


def test_verbs_of_the_core_and_of_the_shell_are_apart() -> None:
    assert not set(VERBS) & CONFIG_VERBS
    assert set(VERBS) >= READS


def test_workers_and_leases_are_shown(rig: Rig) -> None:
    assert {row[0] for row in ask(rig, "workers").rows} == {"ann", "bob"}
    leases = ask(rig, "leases")
    assert {row[1] for row in leases.rows} == {"ann", "bob"}
    assert [row[1] for row in ask(rig, "leases", worker="ann").rows] == ["ann"]


def test_a_story_tells_what_happened_in_order_of_these_items_alone(rig: Rig) -> None:
    lease = rig.heard("ann", m.Grant)[-1]
    fail(rig, "ann", lease, lease.start)
    told = ask(rig, "story", place=f"s0:{lease.start}")
    assert [row[3] for row in told.rows] == ["leased", "failed: broken"]
    assert told.facts[2:] == (("pass_1", "0 of 1 done"),)
    assert [row[3] for row in ask(rig, "story", place=f"s0:{lease.end - 1}").rows] == ["leased"]
    assert len(ask(rig, "story", place="s0").rows) > 2


def test_a_story_names_who_was_at_it_as_the_registry_does() -> None:
    rig = ready("ann", started=7)
    rig.say("admin", m.Hello(role=m.Role.ADMIN, instance=instance_of("admin"), software="t", name="admin"))
    rig.broker.contributors = (("ann", "Ann of the Hill", 1),)
    lease = rig.heard("ann", m.Grant)[-1]
    rig.say("ann", *rig.result(lease, lease.start, lease.start + 1, instance_of("ann")))
    rig.commit()
    told = ask(rig, "story", place=f"s0:{lease.start}")
    assert told.columns[3:7] == ("what", "worker", "contributor", "name")
    assert [row[3:7] for row in told.rows] == [
        ("leased", "ann", "ann", "Ann of the Hill"),
        ("stored", "ann", "ann", "Ann of the Hill"),
    ]
    assert told.rows[0][7].startswith(f"s0:{lease.start}-")
    assert told.facts[:2] == (("since", "7"), ("started", "7"))


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("s7", "There is no shard 's7'. There are, for example: s0."),
        ("s0:99", "s0 has the items 0-20; 99 is not among them."),
        ("s0:5-3", "5-3 is not among them"),
        ("s0:x", "There is no shard 's0:x'"),
        ("", "There is no shard ''"),
    ],
)
@pytest.mark.parametrize("verb", ["story", "reset"])
def test_a_place_that_is_none_is_refused(rig: Rig, verb: str, place: str, why: str) -> None:
    before = list(rig.broker.leases.current())
    assert why in ask(rig, verb, place=place).problem
    assert list(rig.broker.leases.current()) == before
    assert asked(rig)[-1] == (verb, "refused")


def test_a_reset_counts_first_and_gives_the_items_to_others(rig: Rig) -> None:
    lease = rig.heard("ann", m.Grant)[-1]
    place = f"s0:{lease.start}-{lease.end}"
    dry = ask(rig, "reset", place=place, dry_run="yes")
    assert dict(dry.facts)["leases"] == "1"
    assert dict(dry.facts)["items"] == str(lease.end - lease.start)
    held = {it.row.lease for it in rig.broker.leases.current()}
    assert lease.lease in held, "a dry run acted"
    done = ask(rig, "reset", place=place)
    assert done.rows == dry.rows
    assert lease.lease not in {it.row.lease for it in rig.broker.leases.current()}
    rig.broker.check()
    told = [it for it, _ in rig.sent["ann"] if isinstance(it, m.Renewed)]
    assert told[-1].leases[0].lease == lease.lease
    assert not told[-1].leases[0].current


def test_only_what_is_stale_or_a_contributors_is_reset(rig: Rig) -> None:
    assert dict(ask(rig, "reset", stale="60", dry_run="yes").facts)["leases"] == "0"
    assert dict(ask(rig, "reset", stale="0", dry_run="yes").facts)["leases"] == "2"
    assert dict(ask(rig, "reset", contributor="bob", dry_run="yes").facts)["leases"] == "1"
    assert "There is no contributor 'eve'" in ask(rig, "reset", contributor="eve").problem
    assert "Say what to reset" in ask(rig, "reset").problem
    assert "Say what to reset" in ask(rig, "reset", stale="60", contributor="bob").problem


def test_failed_items_get_all_their_attempts_again() -> None:
    rig = ready("ann", max_attempts=2)
    rig.say("admin", m.Hello(role=m.Role.ADMIN, instance=instance_of("admin"), software="t", name="admin"))
    lease = rig.heard("ann", m.Grant)[-1]
    fail(rig, "ann", lease, lease.start)
    assert ask(rig, "reset", failed="yes", fault="network", dry_run="yes").facts[0] == ("items", "0")
    assert ask(rig, "reset", failed="yes", dry_run="yes").facts[0] == ("items", "1")
    assert ask(rig, "reset", failed="yes").facts[0] == ("items", "1")
    place = (1, 0, lease.start)
    assert rig.broker.claims.accuse(place, "ann", "broken", "item", "") is None, "the first attempt counts still"
    assert rig.broker.claims.accuse(place, "ann", "broken", "item", "") is not None


def test_a_drained_worker_gets_nothing_new(rig: Rig) -> None:
    assert (
        "There is no worker 'eve' that takes work. There are, for example: ann"
        in ask(rig, "drain", worker="eve").problem
    )
    assert dict(ask(rig, "drain", worker="ann").facts)["draining"] == "1"
    assert isinstance(rig.sent["ann"][-1][0], m.Drain)
    assert "Drain" not in [type(it).__name__ for it, _ in rig.sent["bob"]]
    assert dict(ask(rig, "drain").facts)["workers"] == "bob"
    assert "drain already" in ask(rig, "drain").problem


def test_a_drained_worker_is_still_shown_and_works_again_when_it_says_so(rig: Rig) -> None:
    assert ask(rig, "undrain").problem == "No worker drains."
    ask(rig, "drain", worker="ann")
    rig.say("ann", m.Drain())
    assert {row[0]: row[2] for row in ask(rig, "workers").rows} == {"ann": "draining", "bob": "working"}
    assert (
        "There is no worker 'bob' that drains. There are, for example: ann."
        in ask(rig, "undrain", worker="bob").problem
    )
    assert ask(rig, "undrain", worker="ann").facts == (("told", "1"), ("workers", "ann"))
    assert isinstance(rig.sent["ann"][-1][0], m.Undrain)
    had = len(rig.heard("ann", m.Grant))
    rig.say("ann", m.Lease(want=8, rate=0.0))
    assert len(rig.heard("ann", m.Grant)) == had, "it has not said yet that it takes work"
    rig.say("ann", m.Undrain())
    rig.lease("ann")
    assert len(rig.heard("ann", m.Grant)) == had + 1
    assert ask(rig, "undrain").problem == "No worker drains."


def test_a_broker_that_has_begun_anew_hears_of_a_drain_from_the_worker() -> None:
    rig = ready()
    rig.say("admin", m.Hello(role=m.Role.ADMIN, instance=instance_of("admin"), software="t", name="admin"))
    rig.join("ann")
    rig.say("ann", m.Drain())
    assert ask(rig, "undrain").facts == (("told", "1"), ("workers", "ann"))


def test_a_broker_that_ends_undrains_nobody(rig: Rig) -> None:
    ask(rig, "shutdown")
    assert "Start it again" in ask(rig, "undrain").problem


def test_a_shutdown_waits_for_what_is_leased(rig: Rig) -> None:
    assert not ask(rig, "shutdown").problem
    assert e.Leave() not in rig.effects
    for name in ("ann", "bob"):
        rig.say(name, m.Bye())
    assert e.Leave() in rig.effects


def test_what_a_verb_does_not_take_is_told(rig: Rig) -> None:
    assert ask(rig, "pause", place="s0").problem == "pause takes no 'place'."
    assert not rig.broker.paused
    assert ask(rig, "pause", page=1).problem == "pause has no further pages."


def test_each_call_is_noted_once_and_a_page_is_none(rig: Rig) -> None:
    ask(rig, "workers")
    ask(rig, "workers", page=1)
    assert [call for call in asked(rig) if call[0] == "workers"] == [("workers", "done")]
