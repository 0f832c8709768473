"""Following a run by the broker's statistics, as any monitor would."""

from __future__ import annotations

import time
from pathlib import Path

import zmq
from pydantic import ValidationError

from cfbus.bus import keys, sockets
from cfbus.core.snapshot import Status


class Follower:
    """A subscription to the ``status`` topic. Rebuilds its connection when the broker was away."""

    def __init__(self, key_file: Path, server_line: str, endpoint: str) -> None:
        self._pair = keys.load(key_file)
        self._public, _ = keys.parse_public_line(server_line)
        self._endpoint = endpoint
        self._context: sockets.Context = zmq.Context()
        self._dial()

    def _dial(self) -> None:
        self._socket, self._watch = sockets.connect_stats(
            self._context, self._pair, self._public, self._endpoint, [b"status"]
        )

    def next(self, seconds: float) -> Status | None:
        """The newest status that comes within this time, or None."""
        if self._watch.dead:
            self._hang_up()
            self._dial()
        self._watch.read(time.monotonic())
        if not self._socket.poll(int(seconds * 1000)):
            return None
        newest = sockets.drain_client(self._socket, 100)[-1]
        try:
            return Status.model_validate_json(bytes(newest[1]))
        except (ValidationError, IndexError):
            return None

    def _hang_up(self) -> None:
        self._watch.close()
        self._socket.close()

    def close(self) -> None:
        """Hang up."""
        self._hang_up()
        self._context.term()
