"""What becomes of a client's connection, as libzmq's monitor tells it, for people and for those who dial anew.

Knows libzmq's events; must not know what is said on the connection.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Final, TypeAlias

import zmq
from zmq.utils.monitor import recv_monitor_message

Socket: TypeAlias = zmq.Socket[bytes]

_RETRY_GRACE_SECONDS: Final = 2.0


def monitor(socket: Socket, events: int) -> Socket:
    """A socket that tells ``events`` of ``socket``; ended by ``socket.disable_monitor()`` and its own ``close``.

    It has no high-water mark: libzmq *waits* to tell an event, so a full monitor that nobody reads
    would stop the I/O thread, and with it every connection of the process.
    """
    address = f"inproc://monitor-{secrets.token_hex(8)}"
    socket.monitor(address, events)
    watcher: Socket = socket.context.socket(zmq.PAIR)
    watcher.rcvhwm, watcher.linger = 0, 0
    watcher.connect(address)
    return watcher


class Connection(StrEnum):
    """What happened to a client's connection.

    libzmq shows a client the same hanging up (or the same silence) whether its key is to come later
    or the server has another key than expected; ``connections.Stranger`` finds out which.
    """

    CONNECTED = "connected"
    HANDSHAKE_OK = "handshake-ok"
    REFUSED = "refused"
    CLOSED = "closed"
    HUNG_UP = "hung-up"
    LATER = "later"
    WRONG_SERVER = "wrong-server"
    DISCONNECTED = "disconnected"
    RETRYING = "retrying"

    def sentence(self, endpoint: str) -> str:
        """The same for a person."""
        return _SENTENCES[self].format(endpoint)


_SENTENCES: Final = {
    Connection.CONNECTED: "Reached {}; proving who we are.",
    Connection.HANDSHAKE_OK: "The broker at {} let us in.",
    Connection.REFUSED: "The broker at {} does not know this key, or not for this port.",
    Connection.CLOSED: "The broker at {} knows this key and does not admit it any more: it was revoked or has expired.",
    Connection.HUNG_UP: "What answers at {} did not finish the handshake; trying again.",
    Connection.LATER: "The broker at {} does not let us in yet: the key awaits approval or is suspended.",
    Connection.WRONG_SERVER: "What answers at {} is not the broker whose key is expected, or it is just stopping.",
    Connection.DISCONNECTED: "The connection to {} broke.",
    Connection.RETRYING: "Nothing at {} can be reached now; trying again.",
}

_BY_STATUS: Final = {400: Connection.REFUSED, 500: Connection.CLOSED}
"""What the broker's ZAP status says (``auth``); instead of 300 libzmq's own server just hangs up."""


class ConnectionWatch:
    """Follows the connection of one client socket; ``events`` can be polled.

    Once ``dead`` is true libzmq will never dial again with this socket: close both, build new ones
    after a pause. Read it at least each few seconds, for one kind of death is only seen by waiting.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.events = monitor(socket, zmq.EVENT_ALL)
        self.dead = False
        self._shaking = False
        self._admitted = False
        self._silent_since: float | None = None

    def read(self, now: float) -> list[Connection]:
        """What happened since the last call; ``now`` in seconds of a monotonic clock."""
        happened: list[Connection] = []
        while self.events.poll(0):
            message = recv_monitor_message(self.events)
            change = self._step(zmq.Event(message["event"]), int(message["value"]), now)
            if change is not None:
                happened.append(change)
        if self._silent_since is not None and now - self._silent_since > _RETRY_GRACE_SECONDS:
            # After a protocol error libzmq neither says so nor dials again.
            self._silent_since = None
            happened.append(self._die(Connection.WRONG_SERVER))
        return happened

    def close(self) -> None:
        """Stop watching; in any order with closing the socket."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self.events.close()

    def _step(self, event: zmq.Event, value: int, now: float) -> Connection | None:
        shaking, self._shaking = self._shaking, event == zmq.EVENT_CONNECTED
        match event:
            case zmq.Event.CONNECTED:
                return Connection.CONNECTED
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._admitted = True
                return Connection.HANDSHAKE_OK
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                return self._die(_BY_STATUS.get(value, Connection.LATER))
            case zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                return self._die(Connection.WRONG_SERVER)
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                return Connection.HUNG_UP
            case zmq.Event.CONNECT_RETRIED:
                self._silent_since = None
                return Connection.RETRYING
            case zmq.Event.DISCONNECTED:
                return self._lost(shaking, now)
            case _:
                return None

    def _lost(self, shaking: bool, now: float) -> Connection | None:
        if shaking:
            # No outcome of the handshake was told: what came was not even a greeting.
            return self._die(Connection.WRONG_SERVER)
        admitted, self._admitted = self._admitted, False
        if not admitted:
            return None
        self._silent_since = now
        return Connection.DISCONNECTED

    def _die(self, why: Connection) -> Connection:
        self.dead = True
        return why
