"""Turns at hosts."""

from __future__ import annotations

import threading

from cfbus.sources.hosts import Hosts


def test_no_more_than_allowed_at_one_host_and_nothing_is_remembered() -> None:
    hosts = Hosts(2)
    with hosts.turn("a", 1) as first, hosts.turn("a", 1) as second, hosts.turn("b", 1) as other:
        assert first
        assert second
        assert other
        with hosts.turn("a", 0) as third:
            assert not third
        assert len(hosts) == 2
    assert len(hosts) == 0


def test_who_waits_gets_the_next_turn() -> None:
    hosts, got = Hosts(1), threading.Event()

    def wait() -> None:
        with hosts.turn("a", 30) as mine:
            assert mine
            got.set()

    thread = threading.Thread(target=wait)
    with hosts.turn("a", 1):
        thread.start()
        assert not got.wait(0.05)
    assert got.wait(30)
    thread.join()
    assert len(hosts) == 0
