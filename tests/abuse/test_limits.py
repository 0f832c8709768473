"""One key that wants more than its share: a refusal that says so, then a cut, a suspension; others notice nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from abuse.rig import Bus, Client
from processes.support import until

from cfbus.bus import messages as m


def test_messages(strict: Bus) -> None:
    pair = strict.key()
    before = strict.counters.read()
    for _ in range(3):
        with strict.client(pair, join=False) as peer:
            for _ in range(400):
                peer.say(m.Heartbeat())
            assert peer.raw.ended()
    strict.moved(before, "limit.messages", 600)
    strict.moved(before, "cut.limit", 2)
    strict.moved(before, "key.suspended", 1)
    strict.serve_an_honest_worker()
    shown = [row for row in strict.key_rows() if row["state"] == "suspended"]
    assert [row["reason"] for row in shown] == ["This key sends more messages a second than one key may."]


def test_bytes(strict: Bus) -> None:
    pair = strict.key()
    before = strict.counters.read()
    payload = bytes(500_000)
    with strict.client(pair) as peer:
        result = m.Result(
            lease=peer.instance, instance=peer.instance, number=1, ranges=((0, 1),), size=len(payload), crc=0
        )
        for _ in range(20):
            peer.say(result, payload)
        assert peer.error() == "limit"
    strict.moved(before, "limit.bytes", 1)
    strict.serve_an_honest_worker()


def test_connections(strict: Bus) -> None:
    pair = strict.key()
    before = strict.counters.read()
    with ExitStack() as opened:
        peers = [opened.enter_context(strict.client(pair)) for _ in range(4)]
        extra = opened.enter_context(strict.client(pair, join=False))
        extra.say(m.Hello(role=m.Role.WORKER, instance=extra.instance, software="t", name="n"))
        assert extra.error() == "limit"
        assert extra.raw.ended()
        strict.moved(before, "limit.connections", 1)
        strict.moved(before, "cut.connections", 1)
        for peer in peers:
            peer.say(m.Heartbeat())
            peer.hear(m.Heartbeat)
    strict.serve_an_honest_worker()


def test_leases(strict: Bus) -> None:
    """Whatever instances it calls itself."""
    pair = strict.key()
    before = strict.counters.read()
    with strict.client(pair) as peer:
        grants = [peer.lease() for _ in range(2)]
        for _ in range(2):
            peer.instance = os.urandom(8).hex()
            peer.join()
            peer.say(m.Lease(want=8, rate=0.0))
            wait, _ = peer.hear(m.Wait)
            assert isinstance(wait, m.Wait)
            assert wait.reason == "too-many-leases"
        assert len({grant.lease for grant in grants}) == 2
    strict.moved(before, "limit.leases", 1)
    strict.serve_an_honest_worker()


def test_handshakes(strict: Bus) -> None:
    """It is put off, not refused: it may come again later."""
    pair = strict.key()
    before = strict.counters.read()
    put_off = 0

    def are_put_off() -> bool:
        nonlocal put_off
        put_off += not strict.admits(pair)
        return put_off >= 2

    # Thirty at once, and one more every two seconds: how many get in depends on how long they take.
    until("two are put off", are_put_off)
    strict.moved(before, "door.too-often", 2)
    strict.moved(before, "limit.handshakes", 2)


@pytest.mark.parametrize("hosts", [["127.0.0.1", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
def test_the_same_key_from_two_hosts(bus: Bus, hosts: list[str]) -> None:
    pair = bus.key()
    before = bus.counters.read()
    with ExitStack() as opened:
        for host in hosts:
            peer = Client(opened.enter_context(bus.raw(pair, host)).enter())
            peer.join()
        if len(set(hosts)) == 2:
            bus.moved(before, "key.two-hosts", 1)
            bus.broker.says("key.two-hosts")
        else:
            _, sleeper = opened.enter_context(bus.raw(pair)), opened.enter_context(bus.client(pair))
            bus.terminals.admin("status")
            assert sleeper.instance
            assert bus.counters.read().get("key.two-hosts", 0) == before.get("key.two-hosts", 0)
