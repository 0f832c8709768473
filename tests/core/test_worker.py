"""Single decisions of the worker; how they hold together is the simulation's."""

from __future__ import annotations

import pytest

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import MAX_HEADER_BYTES, MAX_HELD
from cfbus.bus.wire import decode_table, encode, encode_table
from cfbus.core import effects as e
from cfbus.core.outcome import Caption, EngineFacts, Outcome, WorkItem
from cfbus.core.retransmit import SPOOL_SECONDS
from cfbus.core.worker import HELLO_SECONDS, MOST_RETRY_SECONDS, Worker, WorkerRules

SELF = "a" * 16
WIDE = "\N{GRINNING FACE}"
SPEC = m.Spec(
    hash="e" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=(m.Slot(name="a", prompt="p", prompt_id="p"),)
)


def welcome(window: int = 1 << 20, lost: tuple[str, ...] = ()) -> m.Welcome:
    return m.Welcome(
        software="t", store_id=None, dataset="d", heartbeat_seconds=2.0, lease_seconds=10.0, window=window,
        generation=1, spec=SPEC, lost=lost,
    )  # fmt: skip


def worker(window: int = 1 << 20, **rules: float) -> Worker:
    own = Worker(WorkerRules(SELF, "ann", 4, **rules), EngineFacts("scripted", "none"), 0.0)  # type: ignore[arg-type]
    own.connected(0.0)
    own.handle(welcome(window), b"", 0.0)
    return own


def grant(
    own: Worker, lease: str = "1", start: int = 0, end: int = 8, done: m.Ranges = (), window: int = 1 << 20
) -> None:
    listing = build(
        "listing", end - start, {"key": [str(at) for at in range(start, end)], "locator": [b""] * (end - start)}
    )
    message = m.Grant(
        lease=lease * 16, pass_number=1, shard=0, shard_name="s0", start=start, end=end, done=done, slots=("a",),
        backup=False, ttl=10.0, window=window,
    )  # fmt: skip
    own.handle(message, encode_table(listing), 0.0)


def finish(own: Worker, items: list[WorkItem], text: str = "x", now: float = 1.0) -> list[e.Effect]:
    return own.outcomes([Outcome(item.lease, item.index, (Caption(text),)) for item in items], now)


def sent(effects: list[e.Effect], kind: type[m.Message] = m.Result) -> list[m.Message]:
    return [effect.message for effect in effects if isinstance(effect, e.Send) and isinstance(effect.message, kind)]


def ack(own: Worker, number: int, status: str = "stored", window: int = 1 << 20) -> list[e.Effect]:
    acked = m.Acked.model_validate({"instance": SELF, "number": number, "status": status, "reason": "r"})
    return own.handle(m.Ack(results=(acked,), window=window), b"", 2.0)


def test_an_item_is_handed_out_once_and_what_is_done_never() -> None:
    own = worker()
    grant(own, done=((2, 4),))
    first = own.next_items(3)
    assert [item.index for item in first] == [0, 1, 4]
    assert [item.key for item in first] == ["0", "1", "4"]
    assert [item.index for item in own.next_items(9)] == [5, 6, 7]
    assert own.next_items(9) == []
    grant(own)
    assert own.next_items(9) == [], "the same GRANT came again"


def test_a_result_is_sent_again_until_it_is_acked() -> None:
    own = worker(resend_seconds=30.0)
    grant(own)
    effects = finish(own, own.next_items(8))
    (result,) = sent(effects)
    assert sent(own.tick(30.0)) == []
    assert sent(own.tick(31.0)) == [result]
    assert sent(own.handle(m.Resend(), b"", 32.0)) == [result]
    assert sent(own.handle(welcome(), b"", 33.0)) == [result]
    ack(own, 1)
    assert own.unacked == own.unacked_bytes == 0
    assert sent(own.handle(m.Resend(), b"", 34.0)) == []
    assert own.unacked_bytes == 0, "an ACK that comes twice gives nothing twice"
    ack(own, 1, "duplicate")
    assert own.unacked_bytes == 0


def test_a_result_of_an_ended_lease_is_still_sent_and_what_was_not_begun_is_left() -> None:
    own = worker()
    grant(own)
    items = own.next_items(4)
    finish(own, items[:2])
    effects = own.handle(
        m.Renewed(leases=(m.LeaseState(lease="1" * 16, current=False, ttl=0.0),), window=1 << 20), b"", 1.5
    )
    assert [effect.pairs for effect in effects if isinstance(effect, e.Abandon)] == [((2, 3), (3, 4))]
    assert sent(finish(own, items[2:])) == []
    assert own.next_items(9) == []
    assert [message.ranges for message in sent(own.tick(3.0)) if isinstance(message, m.Result)] == [((0, 2),)]


def test_what_is_done_elsewhere_is_not_done_here() -> None:
    own = worker()
    grant(own)
    own.next_items(2)
    state = m.LeaseState(lease="1" * 16, current=True, ttl=9.0, done=((1, 5),))
    effects = own.handle(m.Renewed(leases=(state,), window=1 << 20), b"", 1.0)
    assert [effect.pairs for effect in effects if isinstance(effect, e.Abandon)] == [((1, 2),)]
    assert [item.index for item in own.next_items(9)] == [5, 6, 7]


def test_a_closed_window_stops_new_items_and_asks_for_none() -> None:
    own = worker(window=1000, result_items=1)
    grant(own, window=1000)
    finish(own, own.next_items(1), "x" * 2000)
    assert own.unacked_bytes >= 1000
    assert own.next_items(9) == []
    assert sent(own.tick(40.0), m.Lease) == []
    ack(own, 1, window=1000)
    assert [item.index for item in own.next_items(2)] == [1, 2]


def test_what_waits_for_long_is_spooled_and_taken_away_when_acked() -> None:
    own = worker()
    grant(own)
    finish(own, own.next_items(8), now=1.0)
    assert not any(isinstance(effect, e.Spool) for effect in own.tick(1.0 + SPOOL_SECONDS - 0.1))
    assert [it.number for it in own.tick(1.0 + SPOOL_SECONDS) if isinstance(it, e.Spool)] == [1]
    assert not any(isinstance(effect, e.Spool) for effect in own.tick(20.0))
    assert [(it.number, it.refused) for it in ack(own, 1) if isinstance(it, e.Unspool)] == [(1, "")]


def test_what_is_refused_is_kept_aside_and_not_sent_again() -> None:
    own = worker()
    grant(own)
    finish(own, own.next_items(8))
    effects = ack(own, 1, "refused")
    assert [type(effect) for effect in effects if not isinstance(effect, e.Note | e.Send)] == [e.Spool, e.Unspool]
    assert [it.refused for it in effects if isinstance(it, e.Unspool)] == ["r"]
    assert sent(own.handle(m.Resend(), b"", 34.0)) == []


def test_a_spool_of_an_earlier_process_is_sent_and_settled() -> None:
    first = worker()
    grant(first)
    (kept,) = [it for it in finish(first, first.next_items(8)) if isinstance(it, e.Send) and it.payload]
    assert isinstance(kept.message, m.Result)
    own = Worker(WorkerRules("b" * 16, "ann", 4), EngineFacts("scripted", "none"), 0.0)
    own.restore([(kept.message, kept.payload)], 0.0)
    own.connected(0.0)
    assert sent(own.handle(welcome(), b"", 0.0)) == [kept.message]
    assert [it.number for it in ack(own, 1) if isinstance(it, e.Unspool)] == [1]
    assert own.unacked == 0


def test_failures_travel_in_messages_that_fit() -> None:
    own = worker(result_items=64)
    grant(own, end=64)
    outcomes = [
        Outcome(
            item.lease,
            item.index,
            failure=m.FailedItem(index=item.index, reason=WIDE * 64, detail=WIDE * 512, fault="item"),
        )
        for item in own.next_items(64)
    ]
    failed = sent(own.outcomes(outcomes, 1.0), m.Failed)
    assert sum(len(message.items) for message in failed if isinstance(message, m.Failed)) == 64
    assert all(len(encode(message)[1]) <= MAX_HEADER_BYTES for message in failed)


def test_a_hello_names_no_more_leases_than_fit() -> None:
    own = worker()
    for at in range(MAX_HELD + 10):
        listing = encode_table(build("listing", 1, {"key": ["k"], "locator": [b""]}))
        message = m.Grant(
            lease=f"{at:016x}", pass_number=1, shard=0, shard_name="s0", start=at, end=at + 1, slots=("a",),
            backup=False, ttl=10.0, window=1 << 20,
        )  # fmt: skip
        own.handle(message, listing, 0.0)
    (hello,) = sent(own.connected(5.0), m.Hello)
    assert m.Hello.model_validate(hello.model_dump()) == hello


def test_a_drain_hands_back_what_is_not_begun_and_ends_when_the_rest_is_acked() -> None:
    own = worker()
    grant(own)
    items = own.next_items(3)
    effects = own.drain(1.0)
    assert [message.ranges for message in sent(effects, m.Release) if isinstance(message, m.Release)] == [((3, 8),)]
    assert own.in_flight == 3
    assert len(sent(finish(own, items))) == 1
    assert own.unacked == 1
    ack(own, 1)
    assert own.drained
    assert sent(own.tick(100.0), m.Lease) == []
    assert [type(message) for message in sent(own.leave(), m.Message)] == [m.Bye]


def test_who_was_drained_by_the_broker_works_again_when_it_says_so() -> None:
    own = worker()
    grant(own)
    own.next_items(3)
    assert [type(message) for message in sent(own.handle(m.Drain(), b"", 1.0), m.Message)] == [m.Drain, m.Release]
    grant(own, "2")
    assert own.unstarted == 0, "a lease that was on its way is taken"
    effects = own.handle(m.Undrain(), b"", 2.0)
    assert [type(message) for message in sent(effects, m.Message)] == [m.Undrain, m.Lease]
    grant(own, "3")
    assert own.unstarted == 8
    again = own.handle(m.Undrain(), b"", 3.0)
    assert [type(message) for message in sent(again, m.Message)][:1] == [m.Undrain], "an answer may have been lost"


def test_who_leaves_by_itself_is_not_undrained() -> None:
    own = worker()
    own.handle(m.Drain(), b"", 1.0)
    assert sent(own.drain(2.0), m.Drain) == [], "it has said so"
    effects = own.handle(m.Undrain(), b"", 3.0)
    assert [type(message) for message in sent(effects, m.Message)] == [m.Drain]
    assert own.drained


def test_a_worker_that_drains_says_so_to_each_broker() -> None:
    own = worker()
    assert sent(own.handle(welcome(), b"", 1.0), m.Drain) == []
    own.handle(m.Drain(), b"", 1.0)
    own.connected(5.0)
    assert len(sent(own.handle(welcome(), b"", 5.0), m.Drain)) == 1


def test_leaving_in_a_hurry_spools_what_is_not_acked() -> None:
    own = worker()
    grant(own)
    finish(own, own.next_items(3))
    effects = own.drain(1.5, at_once=True)
    assert len(sent(effects)) == 1
    assert [type(effect) for effect in own.leave()] == [e.Spool, e.Send]


def test_a_listing_that_cannot_be_read_is_handed_back() -> None:
    own = worker()
    message = m.Grant(
        lease="1" * 16, pass_number=1, shard=0, shard_name="s0", start=0, end=2, slots=("a",), backup=False, ttl=10.0,
        window=1 << 20,
    )  # fmt: skip
    assert len(sent(own.handle(message, b"junk", 0.0), m.Release)) == 1
    short = encode_table(build("listing", 1, {"key": ["k"], "locator": [b""]}))
    assert len(sent(own.handle(message, short, 0.0), m.Release)) == 1
    assert own.next_items(9) == []


def test_a_fatal_error_ends_the_worker_and_hello_first_does_not() -> None:
    own = worker()
    error = m.Error(code="hello-first", sentence="s")
    assert len(sent(own.handle(error, b"", 50.0), m.Hello)) == 1
    assert sent(own.handle(error, b"", 50.0), m.Hello) == []
    stop = own.handle(m.Error(code="role", sentence="no", fatal=True), b"", 51.0)[0]
    assert isinstance(stop, e.Stop)
    assert stop.exit_code == 77


def test_one_hello_for_one_connection() -> None:
    own = Worker(WorkerRules(SELF, "ann", 4), EngineFacts("scripted", "none"), 0.0)
    assert sent(own.tick(0.0), m.Hello) == [], "libzmq may be connected before we are told"
    assert len(sent(own.connected(0.1), m.Hello)) == 1
    assert sent(own.tick(0.2), m.Hello) == []


def test_a_caption_says_what_it_was_written_by_and_not_what_came_later() -> None:
    own = worker()
    grant(own, end=4)
    old = own.next_items(2)
    later = SPEC.model_copy(update={"hash": "f" * 16})
    changed = own.handle(welcome().model_copy(update={"spec": later, "generation": 2}), b"", 1.0)
    assert [effect for effect in changed if isinstance(effect, e.UseSpec)] == [e.UseSpec(later, 2)]
    assert not [
        effect
        for effect in own.handle(welcome().model_copy(update={"spec": later, "generation": 2}), b"", 1.0)
        if isinstance(effect, e.UseSpec)
    ], "the same again changes nothing"
    effects = finish(own, [*own.next_items(2), *old])  # the later ones finish first
    said = {}
    for effect in effects:
        if isinstance(effect, e.Send) and isinstance(effect.message, m.Result):
            table = decode_table("captions", effect.payload)
            said[effect.message.ranges] = (table.constants["spec"], table.constants["generation"])
    assert said == {((0, 2),): ("e" * 16, "1"), ((2, 4),): ("f" * 16, "2")}


@pytest.mark.parametrize(("told", "pause"), [(0.0, HELLO_SECONDS), (60.0, 60.0), (1e6, MOST_RETRY_SECONDS)])
def test_who_is_told_to_come_again_later_does(told: float, pause: float) -> None:
    own = Worker(WorkerRules(SELF, "ann", 4), EngineFacts("scripted", "none"), 0.0)
    own.connected(0.0)
    own.handle(m.Error(code="full", sentence="s", retry_after=told), b"", 0.0)
    assert own.next_deadline() == pause
    assert sent(own.tick(pause - 0.1), m.Hello) == []
    assert len(sent(own.tick(pause), m.Hello)) == 1


def test_on_hold_what_is_leased_is_finished_and_nothing_is_asked_for() -> None:
    own = worker()
    grant(own, end=8)
    own.hold(1.0)
    items = own.next_items(8)
    assert len(items) == 8, "what is leased is still begun"
    effects = finish(own, items) + own.tick(60.0)
    assert not sent(effects, m.Lease)
    assert not own.busy
    grant(own, lease="2")
    assert own.next_items(8) == [], "a lease that comes late is handed back"
    (asked,) = sent(own.go_on(61.0), m.Lease)
    assert isinstance(asked, m.Lease)
    grant(own, lease="3")
    assert len(own.next_items(8)) == 8
    assert own.go_on(62.0) == []


def test_a_lease_that_comes_while_on_hold_is_released() -> None:
    own = worker()
    own.hold(1.0)
    listing = encode_table(build("listing", 1, {"key": ["k"], "locator": [b""]}))
    message = m.Grant(
        lease="4" * 16, pass_number=1, shard=0, shard_name="s0", start=0, end=1, done=(), slots=("a",), backup=False,
        ttl=10.0, window=1 << 20,
    )  # fmt: skip
    assert sent(own.handle(message, listing, 1.0), m.Release) == [m.Release(lease="4" * 16)]


def test_on_hold_what_is_not_begun_can_be_handed_back() -> None:
    own = worker()
    grant(own, end=8)
    begun = own.next_items(3)
    (release,) = sent(own.hold(1.0, give_back=True), m.Release)
    assert isinstance(release, m.Release)
    assert release.ranges == ((3, 8),)
    assert own.busy
    assert sent(finish(own, begun)), "what was in flight is delivered"
    assert not own.busy


def test_what_another_engine_wrote_says_so() -> None:
    own = worker()
    grant(own, end=8)
    items = own.next_items(8)
    assert not sent(finish(own, items[:2]))
    effects = own.captioned_by(EngineFacts("vllm 9", "other"), 1.5)
    effects += finish(own, items[2:])
    tables = [decode_table("captions", effect.payload) for effect in effects if isinstance(effect, e.Send)]
    assert [(table.constants["engine"], table.rows) for table in tables] == [("scripted", 2), ("vllm 9", 6)]
