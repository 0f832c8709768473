"""Images from a feeder, for a worker that cannot reach the source: asked for by index, under a lease.

What it is for: `Feeders`, to whose `read` the worker's reading threads come; one thread of its own speaks with all
feeders.
What it must not know: leases beyond their ids, the broker, engines. No path is ever sent or taken.

Invariants: only the feeder whose key the broker named is talked to; what a feeder sends is bounded before it is kept,
and no more than `WINDOW_BYTES` of it is under way on a connection; every `read` ends, with the item or a ReadError.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import zmq

from cfbus.bus import messages as m
from cfbus.bus import sockets
from cfbus.bus.keys import KeyPair
from cfbus.bus.sockets import Connection, ConnectionWatch
from cfbus.bus.wire import WireError, decode, encode
from cfbus.sources.base import Content, ReadError, ReadReason
from cfbus.sources.columns import MAX_COLUMN_BYTES

WINDOW_BYTES: Final = 64 << 20
MAX_ITEM_BYTES: Final = (64 << 20) + MAX_COLUMN_BYTES
UNREACHABLE_SECONDS: Final = 20.0
READ_SECONDS: Final = 180.0
REBUILD_SECONDS: Final = 2.0
TICK_SECONDS: Final = 1.0
READERS: Final = 16
"""So many reads at once make sense: each waits for an answer."""
_NO_LEASE: Final = "no-lease"
_DRAIN: Final = 256


@dataclass(eq=False)
class _Wanted:
    """One item that somebody waits for."""

    lease: str
    index: int
    future: Future[Content] = field(default_factory=Future)
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    columns: int = 0
    have: int = 0

    def begin_anew(self) -> None:
        """What came so far is of a connection that is no more."""
        self.pieces, self.size, self.columns, self.have = [], 0, 0, 0


@dataclass(eq=False)
class _Door:
    """The connection to one feeder."""

    way: m.Way
    socket: sockets.Socket
    watch: ConnectionWatch
    leases: set[str] = field(default_factory=set)
    wanted: dict[tuple[str, int], _Wanted] = field(default_factory=dict)
    connected: bool = False
    without_since: float = 0.0
    consumed: int = 0
    told: int = 0
    rebuild_at: float | None = None


class Feeders:
    """All feeders of one worker. ``unreachable(lease)`` is called from a thread when one gives nothing."""

    def __init__(self, pair: KeyPair, unreachable: Callable[[str], None]) -> None:
        self._pair = pair
        self._unreachable = unreachable
        self._ways: dict[str, m.Way] = {}
        self._doors: dict[m.Way, _Door] = {}
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ending = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ from any thread

    def read_from(self, lease: str, way: m.Way) -> None:
        """The images of this lease are there."""
        self._ways[lease] = way
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="feeders", daemon=True)
            self._thread.start()
        self._soon(lambda: self._open(way).leases.add(lease))

    def forget(self, lease: str) -> None:
        """Nothing more is read of this lease."""
        self._ways.pop(lease, None)
        self._soon(lambda: self._close_lease(lease, "The lease is over."))

    def feeds(self, lease: str) -> bool:
        """Whether the images of this lease come from a feeder."""
        return lease in self._ways

    def read(self, lease: str, index: int) -> Content:
        """The item's image and columns; waits. Raises ReadError."""
        way = self._ways.get(lease)
        if way is None:
            raise _gone("The lease is over.")
        wanted = _Wanted(lease, index)
        self._soon(lambda: self._want(way, wanted))
        try:
            return wanted.future.result(READ_SECONDS)
        except (TimeoutError, FutureTimeoutError):
            self._soon(lambda: self._give_up_waiting(way, wanted))
            raise _gone(f"The feeder sent nothing for {READ_SECONDS:.0f} s.") from None

    def close(self) -> None:
        """Fail what is waited for, hang up."""
        self._ending = True
        self._soon(lambda: None)
        if self._thread is not None:
            self._thread.join(5.0)

    def _soon(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        with suppress(OSError):  # a full pipe: it is awake already; a closed one: it has ended
            os.write(self._wake_write, b"\0")

    # ------------------------------------------------------------------ the thread

    def _main(self) -> None:
        self._context: sockets.Context = zmq.Context()
        try:
            while not self._ending:
                self._wait()
                while not self._calls.empty():
                    self._calls.get_nowait()()
                now = time.monotonic()
                for way, door in list(self._doors.items()):
                    for step in (self._looked_after(now), self._receive, self._ask):
                        if self._doors.get(way) is door:  # a step may have given it up
                            step(door)
        finally:
            for door in list(self._doors.values()):
                for wanted in list(door.wanted.values()):
                    self._fail(door, wanted, _gone("The worker stops."))
                self._hang_up(door)
            self._context.term()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_read, zmq.POLLIN)
        for door in self._doors.values():
            if door.rebuild_at is None:
                poller.register(door.socket, zmq.POLLIN)
                poller.register(door.watch.events, zmq.POLLIN)
        poller.poll(int(TICK_SECONDS * 1000))
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _open(self, way: m.Way) -> _Door:
        door = self._doors.get(way)
        if door is None:
            door = _Door(way, *self._dial(way), without_since=time.monotonic())
            self._doors[way] = door
        return door

    def _dial(self, way: m.Way) -> tuple[sockets.Socket, ConnectionWatch]:
        return sockets.connect_bus(self._context, self._pair, way.public.encode(), way.endpoint)

    def _hang_up(self, door: _Door) -> None:
        if door.rebuild_at is None:
            door.watch.close()
            door.socket.close(0)

    def _want(self, way: m.Way, wanted: _Wanted) -> None:
        door = self._doors.get(way)
        if door is None or wanted.lease not in door.leases:
            wanted.future.set_exception(_gone("The lease is over."))
            return
        door.wanted[wanted.lease, wanted.index] = wanted
        if door.connected:
            self._fetch(door, wanted.lease, (wanted.index,))

    def _give_up_waiting(self, way: m.Way, wanted: _Wanted) -> None:
        door = self._doors.get(way)
        if door is not None and door.wanted.get((wanted.lease, wanted.index)) is wanted:
            del door.wanted[wanted.lease, wanted.index]

    def _close_lease(self, lease: str, why: str) -> None:
        for way, door in list(self._doors.items()):
            if lease not in door.leases:
                continue
            door.leases.discard(lease)
            for wanted in [each for each in door.wanted.values() if each.lease == lease]:
                self._fail(door, wanted, _gone(why))
            if not door.leases:
                self._hang_up(door)
                del self._doors[way]

    def _fail(self, door: _Door, wanted: _Wanted, error: ReadError) -> None:
        door.wanted.pop((wanted.lease, wanted.index), None)
        if not wanted.future.done():
            wanted.future.set_exception(error)

    # ------------------------------------------------------------------ connections

    def _looked_after(self, now: float) -> Callable[[_Door], None]:
        return lambda door: self._look_after(door, now)

    def _look_after(self, door: _Door, now: float) -> None:
        if door.rebuild_at is not None:
            if now >= door.rebuild_at:
                door.socket, door.watch = self._dial(door.way)
                door.rebuild_at = None
        else:
            for what in door.watch.read(now):
                self._happened(door, what, now)
            if door.watch.dead:
                door.connected = False
                self._hang_up(door)
                door.rebuild_at = now + REBUILD_SECONDS
        if not door.connected and now - door.without_since >= UNREACHABLE_SECONDS:
            door.without_since = now
            for lease in list(door.leases):
                self._give_up(lease, f"The feeder at {door.way.endpoint} cannot be reached.")

    def _happened(self, door: _Door, what: Connection, now: float) -> None:
        if what is Connection.HANDSHAKE_OK:
            door.connected = True
            door.consumed = door.told = 0
            for wanted in door.wanted.values():
                wanted.begin_anew()
            for lease in door.leases:
                indices = [wanted.index for wanted in door.wanted.values() if wanted.lease == lease]
                for at in range(0, len(indices), m.MAX_FETCH_ITEMS):
                    self._fetch(door, lease, tuple(indices[at : at + m.MAX_FETCH_ITEMS]))
        elif door.connected and what is not Connection.CONNECTED:
            door.connected, door.without_since = False, now

    def _give_up(self, lease: str, why: str) -> None:
        self._ways.pop(lease, None)
        self._close_lease(lease, why)
        self._unreachable(lease)

    # ------------------------------------------------------------------ asking and getting

    def _fetch(self, door: _Door, lease: str, items: tuple[int, ...]) -> None:
        door.told = door.consumed + WINDOW_BYTES
        sockets.send(door.socket, None, encode(m.Fetch(lease=lease, items=items, credit=door.told)))

    def _ask(self, door: _Door) -> None:
        """Raise the credit when half of it is used up."""
        if door.connected and door.leases and door.told - door.consumed < WINDOW_BYTES // 2:
            self._fetch(door, next(iter(door.leases)), ())

    def _receive(self, door: _Door) -> None:
        if door.rebuild_at is not None:
            return
        for frames in sockets.drain_client(door.socket, _DRAIN):
            try:
                message, payload = decode(frames)
            except WireError:
                continue
            if isinstance(message, m.Data):
                door.consumed += len(payload)
                self._data(door, message, payload)

    def _data(self, door: _Door, message: m.Data, payload: bytes) -> None:
        wanted = door.wanted.get((message.lease, message.index))
        if wanted is None:
            return
        if message.failure is not None:
            self._failed(door, wanted, message.failure)
            return
        if not wanted.pieces and not wanted.have:
            wanted.size, wanted.columns = message.size, message.columns_size
        problem = _problem(wanted, message, payload)
        if problem:
            self._fail(door, wanted, ReadError(ReadReason.UNREADABLE, problem, "network"))
            return
        wanted.pieces.append(payload)
        wanted.have += len(payload)
        if wanted.have == wanted.size:
            self._whole(door, wanted)

    def _failed(self, door: _Door, wanted: _Wanted, failure: m.FailedItem) -> None:
        if failure.reason == _NO_LEASE:
            self._give_up(wanted.lease, failure.detail)
            return
        known = [reason for reason in ReadReason if reason == failure.reason]
        reason = known[0] if known else ReadReason.UNREADABLE
        self._fail(door, wanted, ReadError(reason, failure.detail, failure.fault))

    def _whole(self, door: _Door, wanted: _Wanted) -> None:
        content = b"".join(wanted.pieces)
        try:
            columns = json.loads(content[: wanted.columns] or b"{}")
            if not isinstance(columns, dict):
                raise ValueError("not a map")
        except (ValueError, RecursionError) as error:
            self._fail(
                door, wanted, ReadError(ReadReason.BAD_COLUMN, f"Its columns cannot be read: {error}.", "network")
            )
            return
        door.wanted.pop((wanted.lease, wanted.index), None)
        wanted.future.set_result(Content(content[wanted.columns :], columns))


def _problem(wanted: _Wanted, message: m.Data, payload: bytes) -> str:
    """What is wrong with a piece."""
    if message.size > MAX_ITEM_BYTES or message.columns_size > min(message.size, MAX_COLUMN_BYTES):
        return "The feeder sends more than an item may have."
    if (message.size, message.columns_size, message.offset) != (wanted.size, wanted.columns, wanted.have):
        return "The pieces from the feeder do not fit together."
    return "The feeder sends more than it said." if wanted.have + len(payload) > wanted.size else ""


def _gone(why: str) -> ReadError:
    return ReadError(ReadReason.SOURCE_MISSING, why, "network")
