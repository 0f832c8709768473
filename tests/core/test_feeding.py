"""Which feeder serves which lease: single decisions of the broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core.bus_rig import LEASE, STORE, Rig, instance_of, ready

from cfbus.bus import messages as m
from cfbus.bus.wire import decode_table
from cfbus.core.feeding import ALLOW_SECONDS, UNREACHABLE_SECONDS
from cfbus.core.state import Remembered

A, B = "feeder-a", "feeder-b"


def far(rig: Rig, name: str = "ann") -> None:
    """A worker that cannot read the source, and wants work."""
    rig.join(name, reads=False)
    rig.say(name, m.Lease(want=8, rate=0.0))


def asked(rig: Rig, feeder: str = A) -> list[m.Allow]:
    return rig.heard(feeder, m.Allow)


def forbidden(rig: Rig, feeder: str = A) -> list[str]:
    return [lease for message in rig.heard(feeder, m.Forbid) for lease in message.leases]


def waits(rig: Rig, name: str = "ann") -> list[str]:
    return [wait.reason for wait in rig.heard(name, m.Wait)]


def fed(rig: Rig, name: str = "ann", feeder: str = A) -> m.Grant:
    """A lease that was granted through a feeder."""
    rig.join_feeder(feeder)
    far(rig, name)
    rig.say(feeder, m.Allowed(lease=asked(rig, feeder)[-1].lease))
    return rig.heard(name, m.Grant)[-1]


def test_a_grant_waits_for_its_feeder_and_names_it() -> None:
    rig = ready()
    rig.join_feeder(A)
    far(rig)
    (allow,) = asked(rig)
    assert not rig.heard("ann", m.Grant)
    assert (allow.worker, allow.start, allow.renewal) == ("ann".ljust(40, "k"), 0, False)
    payload = next(payload for message, payload in rig.sent[A] if message is allow)
    assert decode_table("listing", payload).text("key").texts() == [f"{n}" for n in range(allow.start, allow.end)]
    rig.say(A, m.Allowed(lease=allow.lease))
    (grant,) = rig.heard("ann", m.Grant)
    assert (grant.lease, grant.start, grant.end) == (allow.lease, allow.start, allow.end)
    assert grant.feeder == m.Way(endpoint="tcp://feeder-a:7712", public="feeder-a".ljust(40, "k"))


def test_whoever_reads_by_itself_needs_none() -> None:
    rig = ready()
    rig.join_feeder(A)
    rig.join("ann")
    assert rig.lease("ann").feeder is None
    assert not asked(rig)


def test_all_go_through_feeders_where_that_is_configured() -> None:
    rig = ready(delivery="feeder")
    rig.join_feeder(A)
    rig.join("ann")
    rig.say("ann", m.Lease(want=8, rate=0.0))
    assert asked(rig)


def test_without_a_feeder_a_worker_waits_and_is_served_when_there_is_one() -> None:
    rig = ready()
    far(rig)
    assert waits(rig) == ["no-feeder"]
    assert rig.broker.passes[1].free_items == 20, "nothing is carved for nobody"
    rig.join_feeder(A)
    rig.tick(2.0)
    assert asked(rig)


def test_direct_delivery_is_nothing_for_those_who_cannot_read() -> None:
    rig = ready(delivery="direct")
    rig.join_feeder(A)
    far(rig)
    assert waits(rig) == ["cannot-read"]


@pytest.mark.parametrize("answer", ["refuses", "says nothing", "leaves"])
def test_another_feeder_is_asked(answer: str) -> None:
    rig = ready()
    rig.join_feeder(A)
    rig.join_feeder(B)
    far(rig)
    (first,) = asked(rig)
    if answer == "refuses":
        rig.say(A, m.Allowed(lease=first.lease, problem="There is no such shard here."))
    elif answer == "leaves":
        rig.say(A, m.Bye())
    else:
        rig.tick(ALLOW_SECONDS + 1)
        assert forbidden(rig) == [first.lease]
    (second,) = asked(rig, B)
    assert second.lease == first.lease
    rig.say(B, m.Allowed(lease=second.lease))
    (grant,) = rig.heard("ann", m.Grant)
    assert grant.feeder is not None
    assert grant.feeder.endpoint == "tcp://feeder-b:7712"


def test_an_answer_that_comes_too_late_is_taken_back() -> None:
    rig = ready()
    rig.join_feeder(A)
    rig.join_feeder(B)
    far(rig)
    (first,) = asked(rig)
    rig.tick(ALLOW_SECONDS + 1)
    rig.say(A, m.Allowed(lease=first.lease))
    assert forbidden(rig) == [first.lease, first.lease]
    assert not rig.heard("ann", m.Grant)


def test_with_no_feeder_left_the_items_are_free_again() -> None:
    rig = ready()
    rig.join_feeder(A)
    far(rig)
    rig.say(A, m.Allowed(lease=asked(rig)[0].lease, problem="no"))
    rig.join("bob")
    assert rig.lease("bob", want=8).start == 0


def end_by_release(rig: Rig, grant: m.Grant) -> None:
    rig.say("ann", m.Release(lease=grant.lease))


def end_by_bye(rig: Rig, grant: m.Grant) -> None:
    rig.say("ann", m.Bye())


def end_by_time(rig: Rig, grant: m.Grant) -> None:
    for _ in range(int(LEASE) * 2):
        rig.tick(1.0)
        rig.say(A, m.Heartbeat())


def end_by_revocation(rig: Rig, grant: m.Grant) -> None:
    rig.carry_out(rig.broker.lost("ann", rig.now))


def end_by_hello_without_it(rig: Rig, grant: m.Grant) -> None:
    rig.join("ann", reads=False)


@pytest.mark.parametrize("end", [end_by_release, end_by_bye, end_by_time, end_by_revocation, end_by_hello_without_it])
def test_whatever_ends_a_lease_its_feeder_hears(end: Callable[[Rig, m.Grant], None]) -> None:
    rig = ready()
    grant = fed(rig)
    assert forbidden(rig) == []
    end(rig, grant)
    assert grant.lease in forbidden(rig)
    rig.broker.check()


def test_a_lease_that_is_done_is_forbidden() -> None:
    rig = ready(length=4)
    grant = fed(rig)
    message, payload = rig.result(grant, grant.start, grant.end, instance_of("ann"))
    rig.say("ann", message, payload)
    rig.commit()
    assert forbidden(rig) == [grant.lease]


def test_a_worker_that_leaves_before_its_grant_leaves_nothing_behind() -> None:
    rig = ready()
    rig.join_feeder(A)
    far(rig)
    (allow,) = asked(rig)
    rig.say("ann", m.Bye())
    assert forbidden(rig) == [allow.lease]
    rig.say(A, m.Allowed(lease=allow.lease))
    assert not rig.heard("ann", m.Grant)
    assert rig.broker.passes[1].free_items == 20


def test_while_a_lease_goes_on_its_feeder_is_told_so() -> None:
    rig = ready()
    grant = fed(rig)
    for step in range(1, 12):
        rig.tick(LEASE / 5)
        rig.say(A, m.Heartbeat())
        rig.say(
            "ann",
            m.Renew(leases=(m.HeldLease(lease=grant.lease, captioned=min(step, 8)),), unacked_bytes=0, rate=1.0),
        )
    renewals = [allow for allow in asked(rig) if allow.renewal]
    assert 3 <= len(renewals) <= 5
    assert {allow.lease for allow in renewals} == {grant.lease}
    assert forbidden(rig) == []


@pytest.mark.parametrize("how", ["bye", "silence", "revoked"])
def test_a_lost_feeder_is_replaced(how: str) -> None:
    rig = ready()
    grant = fed(rig)
    rig.join_feeder(B)
    if how == "bye":
        rig.say(A, m.Bye())
    elif how == "revoked":
        rig.carry_out(rig.broker.lost(A, rig.now))
    else:
        for _ in range(8):
            rig.tick(1.0)
            for name in ("ann", B):
                rig.say(name, m.Heartbeat())
    (told,) = [state for renewed in rig.heard("ann", m.Renewed) for state in renewed.leases]
    assert (told.lease, told.current) == (grant.lease, False)
    rig.say("ann", m.Lease(want=8, rate=0.0))
    (allow,) = asked(rig, B)
    rig.say(B, m.Allowed(lease=allow.lease))
    again = rig.heard("ann", m.Grant)[-1]
    assert (again.start, again.end) == (grant.start, grant.end)


def test_a_feeder_that_cannot_be_reached_is_not_tried_again_for_a_while() -> None:
    rig = ready()
    grant = fed(rig)
    rig.say("ann", m.Release(lease=grant.lease, why="feeder"))
    rig.say("ann", m.Lease(want=8, rate=0.0))
    assert len(asked(rig)) == 1
    assert waits(rig)[-1] == "no-feeder"
    rig.join_feeder(B)
    rig.tick(2.0)
    assert len(asked(rig, B)) == 1
    far(rig, "bob")
    assert len(asked(rig)) + len(asked(rig, B)) == 3, "of another worker nothing is known"
    for _ in range(int(UNREACHABLE_SECONDS) + 2):
        rig.tick(1.0)
        for name in ("ann", "bob", A, B):
            rig.say(name, m.Heartbeat())
    rig.say(B, m.Bye())
    rig.say("ann", m.Lease(want=8, rate=0.0))
    assert len(asked(rig)) >= 2


def test_workers_are_spread_and_stay_where_they_are() -> None:
    rig = ready(length=200)
    rig.join_feeder(A)
    rig.join_feeder(B)
    for name in ("ann", "bob", "cid", "eve"):
        far(rig, name)
        for feeder in (A, B):
            for allow in asked(rig, feeder):
                rig.say(feeder, m.Allowed(lease=allow.lease))
    assert len(asked(rig)) == len(asked(rig, B)) == 2
    rig.say("ann", m.Lease(want=8, rate=0.0))
    by_worker = [{allow.worker for allow in asked(rig, feeder)} for feeder in (A, B)]
    assert not by_worker[0] & by_worker[1]


def test_a_draining_feeder_keeps_what_it_has_and_gets_nothing_new() -> None:
    rig = ready()
    grant = fed(rig)
    rig.say(A, m.Drain())
    assert forbidden(rig) == []
    far(rig, "bob")
    assert waits(rig, "bob") == ["no-feeder"]
    assert rig.broker.leases.get(grant.lease) is not None


def test_a_feeder_that_comes_back_hears_what_is_over() -> None:
    rig = ready()
    grant = fed(rig)
    other = "9" * 16
    rig.join_feeder(f"{A}/2", held=(grant.lease, other))
    (welcome,) = rig.heard(f"{A}/2", m.Welcome)
    assert (welcome.lost, welcome.spec) == ((other,), None)
    rig.say("ann", m.Bye())
    assert forbidden(rig, f"{A}/2") == [grant.lease]


def test_a_feeder_that_comes_back_takes_the_place_of_its_dead_connection() -> None:
    rig = ready()
    grant = fed(rig)
    rig.join_feeder(f"{A}/2", held=(grant.lease,))
    assert not [state for renewed in rig.heard("ann", m.Renewed) for state in renewed.leases], "it is served on"
    far(rig, "bob")
    assert (len(asked(rig)), len(asked(rig, f"{A}/2"))) == (1, 1), "nobody is asked on the dead connection"
    assert [state.peer.connection for state in rig.broker.feeding.feeders] == [f"{A}/2"]


def test_what_a_feeder_forgot_ends_when_it_comes_back() -> None:
    rig = ready()
    grant = fed(rig)
    rig.join_feeder(f"{A}/2")
    (told,) = [state for renewed in rig.heard("ann", m.Renewed) for state in renewed.leases]
    assert (told.lease, told.current) == (grant.lease, False)


def test_what_was_granted_with_another_feeder_meanwhile_is_not_taken_back() -> None:
    """A heard ALLOW, and its answer was lost with its connection."""
    rig = ready()
    rig.join_feeder(A)
    far(rig)
    (allow,) = asked(rig)
    rig.join_feeder(B)
    rig.tick(ALLOW_SECONDS + 0.5)
    rig.say(B, m.Allowed(lease=allow.lease))
    (grant,) = rig.heard("ann", m.Grant)
    assert grant.feeder == m.Way(endpoint="tcp://feeder-b:7712", public=B.ljust(40, "k"))
    rig.join_feeder(f"{A}/2", held=(grant.lease,))
    (welcome,) = rig.heard(f"{A}/2", m.Welcome)
    assert welcome.lost == (grant.lease,)
    rig.say("ann", m.Bye())
    assert (forbidden(rig, f"{A}/2"), forbidden(rig, B)) == ([], [grant.lease])


def test_a_feeder_whose_answer_was_lost_is_asked_once_more() -> None:
    rig = ready()
    rig.join_feeder(A)
    far(rig)
    (allow,) = asked(rig)
    rig.join_feeder(f"{A}/2", held=(allow.lease,))
    (welcome,) = rig.heard(f"{A}/2", m.Welcome)
    assert welcome.lost == ()
    (again,) = asked(rig, f"{A}/2")
    assert again == allow
    rig.say(f"{A}/2", m.Allowed(lease=allow.lease))
    assert [grant.lease for grant in rig.heard("ann", m.Grant)] == [allow.lease]


def test_of_two_that_claim_a_lease_after_a_restart_one_serves_it() -> None:
    rig = ready()
    grant = fed(rig)
    row = rig.broker.leases.get(grant.lease)
    assert row is not None
    again = Rig(remembered=Remembered(STORE, 0, (row.row,), 1))
    again.join_feeder(A, held=(grant.lease,))
    again.join_feeder(B, held=(grant.lease,))
    assert [welcome.lost for welcome in again.heard(B, m.Welcome)] == [(grant.lease,)]
    again.join_feeder(f"{A}/2", held=(grant.lease,))
    again.connect_writer()
    again.say("ann", m.Bye())
    again.join("ann", held=(grant.lease,), reads=False)
    again.say("ann", m.Bye())
    assert [forbidden(again, name) for name in (A, f"{A}/2", B)] == [[], [grant.lease], []]


def test_after_a_restart_a_lease_is_fed_by_whoever_says_so() -> None:
    rig = ready()
    grant = fed(rig)
    row = rig.broker.leases.get(grant.lease)
    assert row is not None
    again = Rig(remembered=Remembered(STORE, 0, (row.row,), 1))
    again.join_feeder(A, held=(grant.lease, "9" * 16))
    (welcome,) = again.heard(A, m.Welcome)
    assert welcome.lost == ("9" * 16,)
    again.connect_writer()
    again.join("ann", held=(grant.lease,), reads=False)
    assert forbidden(again) == []
    again.say("ann", m.Release(lease=grant.lease))
    assert forbidden(again) == [grant.lease]


@pytest.mark.parametrize("name", ["ann", "feeder-a"])
def test_only_feeders_say_where_they_feed_and_all_do(name: str) -> None:
    rig = ready()
    worker = name == "ann"
    role = m.Role.WORKER if worker else m.Role.FEEDER
    at = "tcp://here:1" if worker else None
    rig.say(name, m.Hello(role=role, instance=instance_of(name), software="t", name=name, feeds_at=at))
    (error,) = rig.heard(name, m.Error)
    assert (error.code, error.fatal) == ("feeds-at", True)


def test_a_stranger_to_a_lease_cannot_speak_for_its_feeder() -> None:
    rig = ready()
    rig.join_feeder(A)
    rig.join_feeder(B)
    far(rig)
    (allow,) = asked(rig)
    rig.say(B, m.Allowed(lease=allow.lease))
    assert not rig.heard("ann", m.Grant)
    rig.say(A, m.Allowed(lease=allow.lease))
    assert rig.heard("ann", m.Grant)
