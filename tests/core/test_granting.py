"""How much a worker is granted towards the end, and how backup leases are moved on."""

from __future__ import annotations

from core.bus_rig import Rig, instance_of, ready

from cfbus.bus import messages as m


def unequal(length: int) -> Rig:
    """Ann does one item a second, bob nine; both have told so."""
    rig = ready(length=length, chunk_size=length, lease_seconds=1e5)
    for name, rate in (("ann", 1.0), ("bob", 9.0)):
        rig.join(name)
        rig.say(name, m.Heartbeat(rate=rate))
    rig.tick(1.5)
    return rig


def test_a_chunk_is_half_of_what_one_could_do_until_the_end() -> None:
    rig = unequal(1000)
    grant = rig.lease("ann", want=1000, rate=1.0)
    assert grant.end - grant.start == 51
    grant = rig.lease("bob", want=1000, rate=9.0)
    assert grant.end - grant.start == 451


def test_who_has_half_of_its_share_waits_until_it_is_less() -> None:
    rig = unequal(1000)
    grant = rig.lease("ann", want=1000, rate=1.0)
    rig.say("ann", m.Lease(want=1000, rate=1.0))
    assert [wait.reason for wait in rig.heard("ann", m.Wait)] == ["nothing-free"]
    held = m.HeldLease(lease=grant.lease, captioned=20)
    rig.say("ann", m.Renew(leases=(held,), unacked_bytes=0, rate=1.0))
    rig.tick(1.5)
    assert len(rig.heard("ann", m.Grant)) == 2, "the request stood"


def test_who_has_nothing_gets_something_however_slow_it_is() -> None:
    rig = ready(length=1000)
    rig.join("ann")
    for _ in range(2):
        grant = rig.lease("ann", rate=0.001)
        assert grant.end - grant.start == 1
        message, payload = rig.result(grant, grant.start, grant.end, instance_of("ann"), grant.start)
        rig.say("ann", message, payload)
        rig.commit()


def slow_backup() -> tuple[Rig, m.Grant]:
    """Ann has all and does nothing; bob, not much faster, backs some of it up and has begun all of that."""
    rig = ready(length=8, chunk_size=8, lease_seconds=1e5)
    rig.join("ann")
    while rig.broker.passes[1].free_items:
        rig.lease("ann", want=8)
    rig.say("ann", m.Renew(leases=(), unacked_bytes=0, rate=0.1))
    for lease in rig.broker.leases.current():
        lease.rate = 0.1
    rig.join("bob")
    return rig, rig.lease("bob", rate=0.2)


def all_of(rig: Rig, name: str, until: m.Grant) -> list[m.Grant]:
    """A fast worker delivers whatever it is granted, until that is something of another's lease."""
    rig.join(name)
    for number in range(20):
        rig.say(name, m.Lease(want=8, rate=50.0))
        rig.say("bob", m.Heartbeat(rate=0.2))
        rig.tick(1.5)
        got = rig.heard(name, m.Grant)
        last = got[-1]
        if last.start < until.end and until.start < last.end:
            return got
        message, payload = rig.result(last, last.start, last.end, instance_of(name), number)
        rig.say(name, message, payload)
        rig.commit()
    raise AssertionError(f"{until} is left alone: {got}")


def test_a_backup_is_moved_to_who_has_it_done_far_sooner_and_its_holder_is_told() -> None:
    rig, backup = slow_backup()
    assert backup.backup
    last = all_of(rig, "eve", backup)[-1]
    assert last.backup
    told = rig.heard("bob", m.Renewed)[-1].leases[0]
    assert told.lease == backup.lease
    assert told.done == ((last.start, last.end),)


def test_what_its_primary_left_behind_can_be_backed_up_again() -> None:
    rig, backup = slow_backup()
    rig.say("ann", m.Bye())
    assert all_of(rig, "eve", backup)[-1].backup
    assert not rig.heard("bob", m.Renewed), "bob still has it"
