"""The guard goes by the limits that hold now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import zmq

from cfbus.bus.auth import Authenticator, KeyEntry, KeyState
from cfbus.bus.connections import PeerWatch
from cfbus.bus.keys import generate
from cfbus.bus.messages import Role
from cfbus.bus.sockets import Inbound
from cfbus.core.limits import Limits
from cfbus.core.state import Counts
from cfbus.daemons.guard import Guard

KEY = generate().public
ENTRY = KeyEntry(KEY, Role.WORKER, KeyState.ACTIVE, "ann", "ann")


@dataclass
class Gate:
    """A guard, and what it says to a message of a size."""

    guard: Guard

    def takes(self, fd: int = 1, size: int = 1, now: float = 0.0) -> bool:
        inbound = Inbound(b"r", KEY, fd, [bytes(size)])
        return self.guard.judge(inbound, ENTRY, now) is None


@pytest.fixture
def gate() -> Iterator[Gate]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = [context.socket(zmq.ROUTER) for _ in range(2)]
    bus, stats = watches = [PeerWatch(socket) for socket in sockets]
    limits = Limits(messages_per_second=1, bytes_per_second=1000)
    yield Gate(Guard(limits, Authenticator(60), bus, stats, Counter(), 100))
    for watch in watches:
        watch.close()
    for socket in sockets:
        socket.close(0)
    context.term()


def test_changed_limits_hold_for_the_next_message(gate: Gate) -> None:
    assert [gate.takes() for _ in range(3)] == [True, True, False]
    gate.guard.change(Limits(messages_per_second=100, bytes_per_second=1000))
    assert [gate.takes(now=0.1) for _ in range(9)] == [True] * 9
    gate.guard.change(Limits(messages_per_second=100, bytes_per_second=1))
    assert gate.takes(now=0.1)
    assert gate.guard.counts(Counts()) == {"limit.messages": 1}
