"""A monitor's subscription to all that the broker tells: connected, built anew when it breaks, parsed.

Knows topics and models, not what is done with them. What cannot be read (a broker of another version) is passed
over and counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import zmq
from pydantic import BaseModel, ValidationError

from cfbus.bus import keys, sockets
from cfbus.bus.sockets import Connection
from cfbus.core.snapshot import Activity, Leaderboard, Quality, Status, Throughput, WorkersPage
from cfbus.errors import KeyRefusedError

TOPICS: dict[bytes, type[BaseModel]] = {
    b"status": Status,
    b"workers": WorkersPage,
    b"throughput": Throughput,
    b"quality": Quality,
    b"leaderboard": Leaderboard,
    b"activity": Activity,
}
REBUILD_SECONDS = 1.0
MOST_MESSAGES = 500


class Monitor:
    """One subscription; ``socket`` can be polled. Raises what a key file can raise."""

    def __init__(self, key_file: Path, server_public: bytes, endpoint: str) -> None:
        self._pair = keys.load(key_file)
        self._public = server_public
        self.endpoint = endpoint
        self.unreadable = 0
        self.reached = False
        self._rebuild_at = 0.0
        self._context: sockets.Context = zmq.Context()
        self._dial()

    def _dial(self) -> None:
        self.socket, self._watch = sockets.connect_stats(
            self._context, self._pair, self._public, self.endpoint, list(TOPICS)
        )

    def look_after(self) -> None:
        """A few times a second: notices refusals, dials anew. Raises KeyRefusedError when that makes no sense."""
        now = time.monotonic()
        for what in self._watch.read(now):
            if what is Connection.REFUSED:
                raise KeyRefusedError(
                    f"The broker's statistics at {self.endpoint} do not admit this key: it is unknown or revoked, or "
                    "neither a monitor's nor an admin's.",
                    f"Ask the maintainer for one with the role monitor; this is {keys.fingerprint(self._pair.public)}.",
                )
            self.reached = what is Connection.HANDSHAKE_OK or (self.reached and what is not Connection.DISCONNECTED)
        if self._watch.dead and now >= self._rebuild_at:
            self._rebuild_at = now + REBUILD_SECONDS
            self._hang_up()
            self._dial()

    def arrived(self) -> Iterator[BaseModel]:
        """What came since the last time, without waiting."""
        for frames in sockets.drain_client(self.socket, MOST_MESSAGES):
            kind = TOPICS.get(bytes(frames[0]))
            if kind is None or len(frames) != 2:
                self.unreadable += 1
                continue
            try:
                yield kind.model_validate_json(bytes(frames[1]))
            except ValidationError:
                self.unreadable += 1

    def _hang_up(self) -> None:
        self._watch.close()
        self.socket.close()

    def close(self) -> None:
        """Hang up."""
        self._hang_up()
        self._context.term()
