"""What admins ask and invites are for, as the core answers it: its own verbs, and what goes to the registry."""

from __future__ import annotations

import itertools

from core.bus_rig import instance_of, ready

from cfbus.bus import messages as m
from cfbus.core import effects as e

ANN, BOB = instance_of("ann"), instance_of("bob")


def test_the_admin_pauses_and_resumes() -> None:
    rig = ready()
    rig.join("ann")
    rig.say("admin", m.Hello(role=m.Role.ADMIN, instance=BOB, software="t", name="admin"))
    requests = (f"{at:016x}" for at in itertools.count())
    rig.say("admin", m.Admin(request=next(requests), verb="pause"))
    rig.say("ann", m.Lease(want=1, rate=0.0))
    assert rig.heard("ann", m.Wait)[-1].reason == "paused"
    rig.say("admin", m.Admin(request=next(requests), verb="resume"))
    assert rig.heard("ann", m.Grant)
    rig.say("admin", m.Admin(request=next(requests), verb="status"))
    status = rig.heard("admin", m.Reply)[-1]
    assert dict(status.facts)["dataset"] == "d"
    assert m.Reply.model_validate(status.model_dump()) == status
    noted = [it.request.verb for it in rig.effects if isinstance(it, e.NoteCall)]
    assert noted == ["pause", "resume", "status"]


def test_each_call_is_noted_before_it_is_answered_and_others_go_to_the_registry() -> None:
    rig = ready()
    rig.say("admin", m.Hello(role=m.Role.ADMIN, instance=BOB, software="t", name="admin"))
    effects = rig.say("admin", m.Admin(request=ANN, verb="pause"))
    kinds = [type(it) for it in effects if isinstance(it, e.NoteCall | e.Send)]
    assert kinds == [e.NoteCall, e.Send]
    effects = rig.say("admin", m.Admin(request=ANN, verb="revoke-key", arguments=(("key", "x"),)))
    (asked,) = [it for it in effects if isinstance(it, e.AskRegistry)]
    assert (asked.peer.key, asked.request.verb) == ("key-admin", "revoke-key")
    assert not any(isinstance(it, e.Send) for it in effects)


def test_an_invite_may_enrol_and_is_no_peer() -> None:
    """Its messages are allowed or refused above; this is what the one that is allowed does."""
    rig = ready()
    peer = e.Peer("x", "key-x", "ann", m.Role.ENROL)
    wish = m.Enrol(public="x" * 40, name="n", dataset="d")
    effects = rig.broker.handle(peer, wish, b"", rig.now, 0)
    assert effects == [e.EnrolKey(peer, wish)]
    assert "x" not in rig.broker.peers


def test_leases_of_a_closed_key_are_free_though_its_worker_is_away() -> None:
    rig = ready()
    for name in ("ann", "bob"):
        rig.join(name)
    first, second = rig.lease("ann"), rig.lease("bob")
    rig.carry_out(rig.broker.joining.lose("ann", rig.broker.peers["ann"], rig.now))
    assert rig.broker.leases.get(first.lease).current  # type: ignore[union-attr]
    rig.carry_out(rig.broker.asking.closed(frozenset({"key-ann"}), rig.now))
    rig.broker.check()
    assert not rig.broker.leases.get(first.lease).current  # type: ignore[union-attr]
    assert rig.broker.leases.get(second.lease).current  # type: ignore[union-attr]
