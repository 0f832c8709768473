"""Who is let in and speaks the protocol against its rules: results of others' leases, claims and silence."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import pytest
import zmq
from abuse.conftest import HASTY_SECONDS
from abuse.rig import Bus, Client
from store.conftest import captions

from cfbus.bus import messages as m
from cfbus.bus.wire import encode_table

SOMEBODY = "0123456789abcdef"


def result(peer: Client, grant: m.Grant, payload: bytes, changed: Mapping[str, object] = {}) -> m.Result:
    """A RESULT of the first item of a lease, but for this."""
    fields: dict[str, object] = {
        "lease": grant.lease,
        "instance": peer.instance,
        "number": 1,
        "ranges": ((grant.start, grant.start + 1),),
        "size": len(payload),
        "crc": zlib.crc32(payload),
    }
    return m.Result.model_validate({**fields, **changed})


def refused(peer: Client, message: m.Result, payload: bytes) -> str:
    """The reason for which this was refused."""
    peer.say(message, payload)
    ack, _ = peer.hear(m.Ack)
    assert isinstance(ack, m.Ack)
    assert ack.results[0].status == "refused", ack
    return ack.results[0].reason


@pytest.mark.parametrize(
    "message",
    [
        m.Lease(want=1, rate=0.0),
        m.Renew(leases=(), unacked_bytes=0, rate=0.0),
        m.Release(lease=SOMEBODY),
        m.Heartbeat(),
        m.Drain(),
        m.Bye(),
    ],
    ids=lambda message: message.TAG,
)
def test_messages_before_hello(bus: Bus, message: m.Message) -> None:
    def attack(bus: Bus) -> None:
        with bus.client(join=False) as peer:
            peer.say(message)
            assert peer.error() == "hello-first"

    bus.survives(attack, "message.hello-first")


@pytest.mark.parametrize("message", [m.Admin(request=SOMEBODY, verb="pause"), m.Since(shards=0), m.Resend()])
def test_messages_of_another_role(bus: Bus, message: m.Message) -> None:
    def attack(bus: Bus) -> None:
        with bus.client() as peer:
            peer.say(message)
            assert peer.error() == "not-allowed"

    bus.survives(attack, "message.not-allowed")


def test_another_role_than_the_keys(bus: Bus) -> None:
    def attack(bus: Bus) -> None:
        with bus.client(join=False) as peer:
            peer.say(m.Hello(role=m.Role.ADMIN, instance=peer.instance, software="t", name="n"))
            assert peer.error() == "role"

    bus.survives(attack, "message.role")


def test_the_instance_of_another(bus: Bus) -> None:
    def attack(bus: Bus) -> None:
        with bus.client(bus.honest_pair) as ann, bus.client(join=False) as mallory:
            mallory.say(m.Hello(role=m.Role.WORKER, instance=ann.instance, software="t", name="n"))
            assert mallory.error() == "instance"

    bus.survives(attack, "message.instance")


def test_results_of_leases_that_are_not_ones_own(bus: Bus) -> None:
    """Unknown, another's, of another instance, and ended before anything came of it is told by the ledger."""
    key = bus.key()

    def attack(bus: Bus) -> None:
        with bus.client(bus.honest_pair) as ann, bus.client(key) as mallory:
            grant = ann.lease()
            for changed in ({}, {"lease": SOMEBODY}, {"instance": ann.instance}):
                reason = refused(mallory, result(mallory, grant, b"x", changed), b"x")
                assert reason == "no such lease of yours"

    bus.survives(attack, "result.no-such-lease-of-yours", 3)


@pytest.mark.parametrize(
    ("changed", "counter"),
    [
        ({"ranges": ((0, 1 << 30),)}, "result.items-outside-the-lease"),
        ({"table": "failures"}, "result.only-the-broker-may-say-so"),
        ({"size": 7}, "result.the-payload-is-not-as-long-as-the-header-says"),
    ],
)
def test_results_that_are_not_as_leased(bus: Bus, changed: dict[str, object], counter: str) -> None:
    def attack(bus: Bus) -> None:
        with bus.client() as peer:
            grant = peer.lease()
            assert refused(peer, result(peer, grant, b"x", changed), b"x")

    bus.survives(attack, counter)


LIES = {
    "no msgpack": b"\xc1" * 100,
    "nothing": b"",
    "no table": b"\x80",
    "lists in lists": b"\x91" * 100_000,
    "lengths of 2^31": b"\x81\xa4text\xc6\x7f\xff\xff\xff",
}


@pytest.mark.parametrize("payload", LIES.values(), ids=LIES)
def test_payloads_that_lie(bus: Bus, payload: bytes) -> None:
    """The writer looks at all of it before it keeps anything."""

    def attack(bus: Bus) -> None:
        with bus.client() as peer:
            assert refused(peer, result(peer, peer.lease(), payload), payload)
            assert refused(peer, result(peer, peer.lease(), payload, {"crc": 1}), payload)

    bus.survives(attack, "result.not-stored", 2)
    assert bus.writer.process.poll() is None


def honest(slots: tuple[str, ...]) -> dict[str, Any]:
    """The payload of one item as a worker would send it, as a map that can be changed."""
    table = captions(1)
    found: dict[str, Any] = msgpack.unpackb(encode_table(table))
    rows = len(slots)
    for name in ("caption", "finish_reason", "prompt_tokens", "output_tokens", "mean_logprob", "seed", "flags"):
        column = found["columns"][name]
        found["columns"][name] = column * rows if isinstance(column, bytes) else [column[0] * rows, column[1]]
    found["columns"]["caption"][1] = b"a bird 0" * rows
    found["slots"] = {"slot": list(slots), "stage": ["caption"] * rows, "prompt_id": ["p"] * rows}
    return found


def without_a_slot(table: dict[str, Any]) -> None:
    table["slots"] = {name: words[:-1] for name, words in table["slots"].items()}


def with_another_slot(table: dict[str, Any]) -> None:
    table["slots"]["slot"][0] = "other"


def with_two_rows(table: dict[str, Any]) -> None:
    table["rows"] = 2


def with_lengths(*lengths: int) -> Callable[[dict[str, Any]], None]:
    def change(table: dict[str, Any]) -> None:
        table["columns"]["caption"][0] = b"".join(struct.pack("<i", length) for length in lengths)

    return change


def with_bad_text(table: dict[str, Any]) -> None:
    table["columns"]["caption"][1] = b"a \xff\xfe  0"


def with_a_word_that_is_none(table: dict[str, Any]) -> None:
    table["columns"]["finish_reason"][0] = b"\x07"


def with_another_column(table: dict[str, Any]) -> None:
    table["columns"]["contributor_id"] = b"\x00\x00\x00\x00"


def with_short_numbers(table: dict[str, Any]) -> None:
    table["columns"]["seed"] = b"\x07"


@pytest.mark.parametrize(
    "change",
    [
        without_a_slot, with_another_slot, with_two_rows, with_lengths(7), with_lengths(9), with_lengths(-1),
        with_lengths(2**31 - 1), with_lengths(4, 4), with_bad_text, with_a_word_that_is_none, with_another_column,
        with_short_numbers,
    ],
)  # fmt: skip
def test_tables_that_lie_about_themselves(bus: Bus, change: Callable[[dict[str, Any]], None]) -> None:
    """Right but for one thing: what the buffers hold, how long they say that they are, whose slots they are of."""

    def attack(bus: Bus) -> None:
        with bus.client() as peer:
            grant = peer.lease()
            table = honest(grant.slots)
            change(table)
            payload = msgpack.packb(table)
            assert refused(peer, result(peer, grant, payload), payload)

    bus.survives(attack, "result.not-stored")
    assert bus.writer.process.poll() is None


def test_a_result_that_comes_again_and_again_counts_once(bus: Bus) -> None:
    """Twice under its lease, and once more when that has ended: stored, and then a duplicate for ever."""
    done = bus.terminals.admin("status")["done"]
    with bus.client() as peer:
        grant = peer.lease()
        payload = msgpack.packb(honest(grant.slots))

        def status(number: int) -> str:
            peer.say(result(peer, grant, payload, {"number": number}), payload)
            ack, _ = peer.hear(m.Ack)
            assert isinstance(ack, m.Ack)
            return ack.results[0].status

        assert [status(number) for number in (1, 1, 2)] == ["stored", "duplicate", "duplicate"]
        peer.say(m.Release(lease=grant.lease))
        assert status(3) == "duplicate"
    assert bus.terminals.admin("status")["done"] == int(str(done)) + 1
    bus.serve_an_honest_worker()


def test_claims_that_never_come_back(hasty: Bus) -> None:
    """Leases that are taken and not renewed, and ones that are renewed without any progress, end in their time."""
    key = hasty.key()

    def attack(bus: Bus) -> None:
        with bus.client(key) as peer:
            grants = [peer.lease(1000) for _ in range(5)]
            held = tuple(m.HeldLease(lease=grant.lease, captioned=0) for grant in grants)
            end = time.monotonic() + HASTY_SECONDS + 1
            while time.monotonic() < end:
                peer.say(m.Renew(leases=held, unacked_bytes=0, rate=1e9))
                peer.hear(m.Renewed)
                time.sleep(0.25)

    hasty.survives(attack, "lease.expired", 5)


def test_failures_of_items_of_others(bus: Bus) -> None:
    key = bus.key()

    def attack(bus: Bus) -> None:
        with bus.client(bus.honest_pair) as ann, bus.client(key) as mallory:
            grant = ann.lease()
            item = m.FailedItem(index=grant.start, reason="bad", fault="item")
            mallory.say(m.Failed(lease=grant.lease, instance=mallory.instance, number=1, items=(item,)))
            mallory.hear(m.Ack)

    bus.survives(attack, "failed.not-yours")


def test_a_liar_who_calls_good_images_bad(bus: Bus) -> None:
    """Nothing is given up because of one contributor's word; what it said is counted, and others try the items."""
    key = bus.key()
    dead = bus.terminals.admin("status")["dead_letters"]

    def attack(bus: Bus) -> None:
        with bus.client(key) as peer:
            grant = peer.lease(16)
            items = tuple(
                m.FailedItem(index=index, reason="bad", fault="item")
                for index in range(grant.start, min(grant.end, grant.start + 16))
            )
            peer.say(m.Failed(lease=grant.lease, instance=peer.instance, number=1, items=items))
            peer.hear(m.Ack)

    bus.survives(attack, "item.accused")
    assert bus.terminals.admin("status")["dead_letters"] == dead


def test_who_never_reads(bus: Bus) -> None:
    """Answers wait for it within the broker, until it is cut as any other who asks too much."""
    key = bus.key()

    def attack(bus: Bus) -> None:
        with bus.client(key) as peer:
            for _ in range(3000):
                peer.raw.send(b"x", b"y")
            assert peer.raw.ended()

    bus.survives(attack, "cut.limit", rounds=1)


def test_a_monitor_on_the_bus(bus: Bus) -> None:
    """Whoever may look may not speak: its key is not let in at the port of the bus."""
    pair = bus.monitor_pair

    def attack(bus: Bus) -> None:
        assert not bus.admits(pair)

    bus.survives(attack, "door.wrong-role")


def test_a_chosen_routing_id(bus: Bus) -> None:
    def attack(bus: Bus) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context.socket(zmq.DEALER) as peer:
            peer.linger = 60_000
            peer.curve_publickey, peer.curve_secretkey = bus.honest_pair.public, bus.honest_pair.secret
            peer.curve_serverkey = bus.server
            peer.routing_id = b"broker"
            peer.connect(bus.terminals.endpoint)
            peer.send_multipart([b"CFB\1", b"x"])
        context.term()

    bus.survives(attack, "dropped.chosen-routing-id")
