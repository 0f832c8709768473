"""Single decisions of the broker; how they hold together is the simulation's."""

from __future__ import annotations

import pytest
from core.bus_rig import LEASE, STORE, Rig, instance_of, ready
from core.samples import SAMPLES

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import MAX_HEADER_BYTES
from cfbus.bus.wire import encode, encode_table
from cfbus.core import effects as e
from cfbus.core.broker import WRITER_SILENT_SECONDS
from cfbus.core.effects import LeaseRow
from cfbus.core.ranges import RangeSet
from cfbus.core.records import contributors, jobs
from cfbus.core.state import Remembered

ANN, BOB = instance_of("ann"), instance_of("bob")


@pytest.mark.parametrize("role", m.Role)
@pytest.mark.parametrize("kind", m.MESSAGES, ids=lambda kind: kind.TAG)
def test_every_message_of_every_role_is_allowed_or_refused(kind: type[m.Message], role: m.Role) -> None:
    """And none raises, whether the peer has introduced itself or not."""
    rig = ready()
    peer = e.Peer("x", "key-x", "x", role)
    allowed = role in m.SENDERS[kind]
    for hello in (False, True):
        if hello and role in (m.Role.WORKER, m.Role.ADMIN):
            rig.broker.handle(peer, m.Hello(role=role, instance=BOB, software="t", name="n"), b"", rig.now, 0)
        effects = rig.broker.handle(peer, SAMPLES[kind], b"", rig.now, 0)
        codes = [it.message.code for it in effects if isinstance(it, e.Send) and isinstance(it.message, m.Error)]
        assert ("not-allowed" in codes) == (not allowed)


def test_nothing_is_granted_before_the_first_catch_up() -> None:
    rig = Rig()
    rig.join("ann")
    rig.say("ann", m.Lease(want=8, rate=0.0))
    assert [wait.reason for wait in rig.heard("ann", m.Wait)] == ["writer-away"]
    rig.say(rig.writer_link, rig.writer.connected(rig.now)[0].message)  # type: ignore[union-attr]
    rig.connect_writer()
    assert len(rig.heard("ann", m.Grant)) == 1, "the request stood"


def test_a_lease_is_saved_before_its_grant_is_sent() -> None:
    rig = ready()
    rig.join("ann")
    grant = rig.lease("ann")
    saved = next(at for at, it in enumerate(rig.effects) if isinstance(it, e.SaveLease) and it.row.lease == grant.lease)
    sent = next(at for at, it in enumerate(rig.effects) if isinstance(it, e.Send) and it.message is grant)
    assert saved < sent


def test_an_ack_follows_the_commit_and_not_the_result() -> None:
    rig = ready()
    rig.join("ann")
    grant = rig.lease("ann")
    message, payload = rig.result(grant, 0, 2, ANN)
    rig.say("ann", message, payload)
    assert not rig.heard("ann", m.Ack)
    rig.commit()
    assert [acked.status for ack in rig.heard("ann", m.Ack) for acked in ack.results] == ["stored"]
    rig.say("ann", message, payload)
    assert [acked.status for acked in rig.heard("ann", m.Ack)[-1].results] == ["duplicate"]
    assert isinstance(rig.broker.position, int)
    assert [it.position for it in rig.effects if isinstance(it, e.SavePosition)][-1] == 1


def test_a_result_that_comes_again_when_its_shard_is_complete_is_a_duplicate_of_its_worker_alone() -> None:
    rig = ready(length=1)
    for name in ("ann", "bob"):
        rig.join(name)
    message, payload = rig.result(rig.lease("ann"), 0, 1, ANN)
    rig.say("ann", message, payload)
    rig.commit()
    rows = [it.row for it in rig.effects if isinstance(it, e.SaveLease)]
    again = Rig(1, Remembered(STORE, 1, tuple(rows[-1:])))
    again.writer = rig.writer
    again.connect_writer()
    for bus in (rig, again):
        bus.join("ann")
        bus.join("bob")
        for name, status in (("ann", "duplicate"), ("bob", "refused")):
            bus.say(name, message, payload)
            assert bus.heard(name, m.Ack)[-1].results[0].status == status


@pytest.mark.parametrize(
    "change",
    [
        {"lease": "f" * 16},
        {"instance": "f" * 16},
        {"ranges": ((7, 9),)},
        {"size": 1},
        {"table": "failures"},
        {"origin": m.Origin(contributor="x", key="k", job="j", pass_number=1, shard=0, received=0)},
    ],
)
def test_a_result_that_is_not_of_ones_lease_is_refused(change: dict[str, object]) -> None:
    rig = ready()
    rig.join("ann")
    message, payload = rig.result(rig.lease("ann", want=8), 0, 2, ANN)
    rig.say("ann", message.model_copy(update=change), payload)
    assert [acked.status for acked in rig.heard("ann", m.Ack)[-1].results] == ["refused"]
    assert not rig.heard(rig.writer_link, m.Result)


def test_anothers_lease_cannot_be_used() -> None:
    rig = ready()
    rig.join("ann")
    rig.join("bob")
    grant = rig.lease("ann")
    before = rig.broker.leases.get(grant.lease)
    assert before is not None
    undone = before.undone.pairs()
    message, payload = rig.result(grant, 0, 2, ANN)
    rig.say("bob", message, payload)
    rig.say("bob", m.Release(lease=grant.lease))
    item = m.FailedItem(index=0, reason="r", fault="item")
    rig.say("bob", m.Failed(lease=grant.lease, instance=ANN, number=9, items=(item,)))
    rig.say("bob", m.Renew(leases=(m.HeldLease(lease=grant.lease, captioned=8),), unacked_bytes=0, rate=1.0))
    assert before.undone.pairs() == undone
    assert before.captioned == 0
    assert len(rig.broker.claims) == 0
    assert [state.current for state in rig.heard("bob", m.Renewed)[-1].leases] == [False]


@pytest.mark.parametrize("instance", [ANN, "b" * 16])
def test_nobody_can_say_that_he_is_another(instance: str) -> None:
    """Neither another contributor's process nor the broker, whose dead letters could be settled so."""
    rig = ready()
    rig.join("ann")
    rig.join("eve", instance=instance)
    assert [error.code for error in rig.heard("eve", m.Error)] == ["instance"]
    grant = rig.lease("ann")
    assert grant.start == 0
    assert rig.broker.routes[ANN] == "ann"


def test_a_lease_without_progress_ends_and_with_progress_does_not() -> None:
    rig = ready(heartbeat_seconds=5.0)
    rig.join("ann")
    grant = rig.lease("ann", want=8)

    def renew(captioned: int) -> m.LeaseState:
        held = m.HeldLease(lease=grant.lease, captioned=captioned)
        rig.say("ann", m.Renew(leases=(held,), unacked_bytes=0, rate=1.0))
        return rig.heard("ann", m.Renewed)[-1].leases[0]

    for captioned in (1, 2, 3):
        rig.tick(LEASE - 1.0)
        assert renew(captioned).current
    rig.tick(LEASE - 1.0)
    assert renew(3).current
    rig.tick(1.0)
    assert not renew(4).current


def test_coming_back_prolongs_a_lease_once_and_not_for_ever() -> None:
    rig = ready()
    rig.join("ann")
    grant = rig.lease("ann", want=8)
    for times in range(4):
        rig.tick(LEASE - 1.0)
        rig.join(f"ann/{times}", instance=ANN, held=(grant.lease,))
    lease = rig.broker.leases.get(grant.lease)
    assert lease is not None
    assert not lease.current


def test_lease_clocks_stand_still_while_the_writer_is_silent() -> None:
    rig = ready()
    rig.join("ann")
    grant = rig.lease("ann", want=8)
    rig.tick(3 * LEASE, commits=False)
    lease = rig.broker.leases.get(grant.lease)
    assert lease is not None
    assert lease.current
    rig.write(rig.writer.connected(rig.now))
    rig.tick(LEASE - WRITER_SILENT_SECONDS - 1.0)
    assert lease.current
    rig.tick(WRITER_SILENT_SECONDS + 2.0)
    assert not lease.current


def test_a_lease_whose_work_was_done_meanwhile_is_not_granted() -> None:
    """Its shard may be complete, and the table has forgotten it, when its listing comes."""
    rig = ready(length=4)
    rig.join("ann")
    first = rig.lease("ann", want=4)
    message, payload = rig.result(first, 0, first.end, ANN)
    rig.join("bob")
    link, rig.writer_link = rig.writer_link, ""  # what is asked of the writer waits
    rig.say("bob", m.Lease(want=4, rate=0.0))
    asked = [it.message for it in rig.effects if isinstance(it, e.Send) and isinstance(it.message, m.IndexShard)][-1]
    rig.writer_link = link
    rig.say("ann", message, payload)
    rest, more = rig.result(first, first.end, 4, ANN, 2) if first.end < 4 else (None, b"")
    assert rest is None or rest.ranges[0][0] >= first.end
    rig.commit()
    state = build("done", 1, {"pass_number": [1], "shard": [0], "start": [0], "end": [4]})
    rig.say(link, m.State(table="done", first=0, position=1, snapshot=False, last=False), encode_table(state))
    keys = [str(index) for index in range(asked.start, asked.end)]
    listing = encode_table(build("listing", len(keys), {"key": keys, "locator": [b""] * len(keys)}))
    rig.say(link, m.Listed(shard=0, start=asked.start, rows=len(keys)), listing)
    assert not rig.heard("bob", m.Grant)
    assert more == b"" or rest is not None
    assert not list(rig.broker.leases)


def test_an_unreadable_listing_is_not_asked_for_without_a_pause() -> None:
    rig = ready()
    rig.join("ann")
    link, rig.writer_link = rig.writer_link, ""
    rig.say("ann", m.Lease(want=4, rate=0.0))
    asked = [it for it in rig.effects if isinstance(it, e.Send) and isinstance(it.message, m.IndexShard)]
    empty = encode_table(build("listing", 0, {"key": [], "locator": []}))
    rig.say(link, m.Listed(shard=0, start=0, rows=0), empty)
    again = [it for it in rig.effects if isinstance(it, e.Send) and isinstance(it.message, m.IndexShard)]
    assert len(again) == len(asked) == 1


def test_a_store_that_went_backwards_stops_the_bus() -> None:
    rig = Rig(remembered=Remembered(STORE, 5))
    effects = rig.say(rig.writer_link, rig.writer.connected(rig.now)[0].message)  # type: ignore[union-attr]
    stop = next(it for it in effects if isinstance(it, e.Stop))
    assert stop.exit_code == 78
    assert "--accept-loss" in stop.hint


def test_with_accepted_loss_what_was_lost_is_done_again() -> None:
    rig = ready(accept_loss=True)
    rig.join("ann")
    message, payload = rig.result(rig.lease("ann", want=4), 0, 4, ANN)
    rig.say("ann", message, payload)
    rig.commit()
    assert rig.broker.done_items == 4
    rig.start_writer("2" * 16)  # from a disk that has nothing of it
    rig.connect_writer()
    assert (rig.broker.position, rig.broker.done_items) == (0, 0)


def test_another_store_is_refused() -> None:
    rig = Rig(remembered=Remembered("6" * 16, 5))
    rig.connect_writer()
    assert [error.fatal for error in rig.heard(rig.writer_link, m.Error)] == [True]
    assert rig.broker.writer is None


def _rows(count: int) -> tuple[LeaseRow, ...]:
    return tuple(
        LeaseRow(f"{at:016x}", f"s0:0-2@1.{at}", 1, 0, 2 * at, 2 * at + 2, "ann", "k", ANN, False, True)
        for at in range(count)
    )


def test_remembered_leases_go_on_if_their_worker_still_has_them() -> None:
    rig = Rig(remembered=Remembered(STORE, 0, _rows(2)))
    rig.join("ann", held=(_rows(2)[1].lease,))
    rig.connect_writer()
    states = [rig.broker.leases.get(row.lease) for row in _rows(2)]
    assert [state.current for state in states if state is not None] == [False, True]
    assert [it.row.current for it in rig.effects if isinstance(it, e.SaveLease)] == [False]


def test_a_grant_does_not_go_to_the_process_that_came_after() -> None:
    rig = ready()
    rig.join("ann")
    grant = rig.lease("ann", want=4)
    message, payload = rig.result(grant, 0, 1, ANN)
    link, rig.writer_link = rig.writer_link, ""
    rig.say("ann", m.Lease(want=4, rate=0.0))
    asked = [it.message for it in rig.effects if isinstance(it, e.Send) and isinstance(it.message, m.IndexShard)][-1]
    rig.join("ann/2")
    rig.say("ann/2", message, payload)  # from its spool
    listing = encode_table(build("listing", 4, {"key": ["k"] * 4, "locator": [b""] * 4}))
    rig.say(link, m.Listed(shard=0, start=asked.start, rows=4), listing)
    assert not rig.heard("ann/2", m.Grant)


def test_answers_to_renew_fit_their_headers_however_torn_the_leases_are() -> None:
    rig = ready(length=60_000, chunk_size=3000)
    rig.join("ann")
    held = []
    for _ in range(20):
        rig.say("ann", m.Lease(want=3000, rate=1000.0))
        held.append(m.HeldLease(lease=rig.heard("ann", m.Grant)[-1].lease, captioned=1))
    every_other = RangeSet((at, at + 1) for at in range(0, 60_000, 2)).pairs()
    rig.broker.passes[1].mark_done(0, every_other)
    rig.broker.leases.mark_done(1, 0, every_other)
    rig.say("ann", m.Renew(leases=tuple(held), unacked_bytes=0, rate=1000.0))
    answers = rig.heard("ann", m.Renewed)
    assert len(answers) > 1
    assert sum(len(answer.leases) for answer in answers) == len(held)
    for answer in answers:
        assert len(encode(answer)[1]) <= MAX_HEADER_BYTES
    rig.say("ann", m.Lease(want=3000, rate=1000.0))
    assert all(len(encode(grant)[1]) <= MAX_HEADER_BYTES for grant in rig.heard("ann", m.Grant))


def test_snapshots_fit_a_frame_however_many_leases_there_are() -> None:
    rig = ready()
    rig.broker.shards.names[0] = "\N{GRINNING FACE}" * 500
    rows = [
        LeaseRow(f"{at:016x}", f"{rig.broker.shards.names[0]}:0-1@1.{at}", 1, 0, 0, 1, "ann", "k", ANN, False, False)
        for at in range(1000)
    ]
    rig.broker.last_ended.extend((row, 0) for row in rows)
    rig.broker.contributors = tuple((f"{at}", "\N{GRINNING FACE}" * 64, 1) for at in range(3000))
    assert 0 < len(jobs(rig.broker)) <= m.MAX_FRAME_BYTES
    assert 0 < len(contributors(rig.broker)) <= m.MAX_FRAME_BYTES


def test_an_idle_worker_gets_released_work_at_once() -> None:
    rig = ready(length=4)
    rig.join("ann")
    rig.join("bob")
    grants = [rig.lease("ann", want=4, rate=100.0)]
    while rig.broker.passes[1].free_items:
        grants.append(rig.lease("ann", want=4, rate=100.0))
    rig.say("bob", m.Lease(want=4, rate=0.0))
    assert not rig.heard("bob", m.Grant)
    rig.say("ann", m.Release(lease=grants[0].lease))
    assert [grant.start for grant in rig.heard("bob", m.Grant)] == [grants[0].start]


def test_a_dead_letter_is_sent_until_the_writer_has_it() -> None:
    rig = ready(max_attempts=1)
    rig.join("ann")
    grant = rig.lease("ann", want=4)
    rig.carry_out(rig.broker.joining.lose(rig.writer_link, rig.broker.peers[rig.writer_link], rig.now))
    item = m.FailedItem(index=0, reason="broken", fault="item")
    rig.say("ann", m.Failed(lease=grant.lease, instance=ANN, number=1, items=(item,)))
    assert rig.broker.verdicts.undelivered == 1
    rig.connect_writer()
    rig.commit()
    assert rig.broker.verdicts.undelivered == 0
    assert rig.broker.passes[1].done_in(0, 0, 1) == ((0, 1),)


def test_a_peer_is_told_the_brokers_clock_and_when_its_key_ends() -> None:
    rig = ready()
    peer = e.Peer("x", "key-x", "ann", m.Role.WORKER, key_expires=77)
    hello = m.Hello(role=m.Role.WORKER, instance="1" * 16, software="t", name="x")
    effects = rig.broker.handle(peer, hello, b"", rig.now, 1_234_567)
    (welcome,) = [each.message for each in effects if isinstance(each, e.Send) and isinstance(each.message, m.Welcome)]
    assert (welcome.now, welcome.key_expires) == (1_234_567, 77)
