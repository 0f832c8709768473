"""From items to pictures, ahead of the engine: bytes are read in threads and decoded in child processes.

Knows neither leases nor the bus.

Invariants:
- Every item that is put comes out exactly once: as what ``then`` made of its picture, or as a failure
  with a reason and whose fault it is. ``close`` fails what is left, and nothing comes out afterwards.
- One bad picture never touches its neighbours, and what this host cannot do is no picture's fault.
- Between reading and decoding, at most as many files as there are readers and ``AHEAD_BYTES`` more lie in memory; one
  file of any size may go when there is nothing else.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from cfbus.bus.messages import FailedItem
from cfbus.core.outcome import WorkItem
from cfbus.decoding import CallError, DecodePool
from cfbus.engines.base import Loaded, Read
from cfbus.images import ImageError, Picture
from cfbus.sources.base import DISK_READERS, Fault, ReadError

AHEAD_BYTES = 256 * 1024 * 1024
CLOSE_SECONDS = 2.0
_MAX_DETAIL = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fed(Generic[T]):
    """What became of an item: ``made`` by the call on its picture, or the ``failure``; how long it took; and what is
    kept of its columns."""

    item: WorkItem
    made: T | None
    failure: FailedItem | None
    milliseconds: float
    url: str = ""
    metadata: str = ""


@dataclass(slots=True, eq=False)
class _Ticket(Generic[T]):
    """One put; the same item put twice is two of them."""

    item: WorkItem
    plan: Callable[[Loaded], Callable[[Picture], T]]
    began: float
    url: str = ""
    metadata: str = ""
    decodes: bool = False


class Feed(Generic[T]):
    """Reads with so many ``readers`` at once and decodes; ``post`` gets what is ready, from any thread."""

    def __init__(
        self, read: Read, pool: DecodePool, post: Callable[[Fed[T]], None], readers: int = DISK_READERS
    ) -> None:
        self._read = read
        self._pool = pool
        self._post = post
        self._todo: queue.SimpleQueue[_Ticket[T] | None] = queue.SimpleQueue()
        self._state = threading.Condition()  # guards what follows
        self._closed = False
        self._open: set[_Ticket[T]] = set()
        self._posting = 0
        self._held_bytes = 0
        self._decoding = 0
        self._readers: list[threading.Thread] = []
        for _ in range(readers):
            self._start_reader()

    def put(self, item: WorkItem, plan: Callable[[Loaded], Callable[[Picture], T]]) -> None:
        """Read this item, decode it, and call in the child, on the picture, what ``plan`` makes of what was read.

        What ``plan`` returns must be importable by name; it may raise ReadError, and is called in a thread of the
        feed. Never blocks. Raises RuntimeError after ``close``.
        """
        ticket = _Ticket(item, plan, time.monotonic())
        with self._state:
            if self._closed:
                raise RuntimeError("the feed is closed")
            self._open.add(ticket)
        self._todo.put(ticket)

    def counts(self) -> tuple[int, int]:
        """How many items are being read or wait for that, and how many are being decoded or wait for that."""
        with self._state:
            return max(len(self._open) - self._decoding, 0), self._decoding

    def close(self) -> None:
        """Fail what has not come out, end the threads; takes at most ``CLOSE_SECONDS``."""
        with self._state:
            self._closed = True
            left, readers = list(self._open), list(self._readers)
            self._state.notify_all()
        for _ in readers:
            self._todo.put(None)
        for ticket in left:
            self._fail(ticket, "closed", "The worker stopped before it was done.", "worker")
        until = time.monotonic() + CLOSE_SECONDS
        for reader in readers:
            reader.join(max(0.0, until - time.monotonic()))
        with self._state:
            self._state.wait_for(lambda: not self._posting, max(0.0, until - time.monotonic()))

    # ------------------------------------------------------------------ reading

    def _start_reader(self) -> None:
        with self._state:
            if not self._closed:
                # a daemon: a read that hangs for good must not keep the process
                reader = threading.Thread(target=self._work, name="read", daemon=True)
                self._readers = [other for other in self._readers if other.is_alive()] + [reader]
                reader.start()

    def _work(self) -> None:
        while (ticket := self._todo.get()) is not None:
            try:
                self._begin(ticket)
            except BaseException as error:
                # A bug ends its thread loudly, but costs neither the item nor the others.
                self._fail(ticket, "engine-failed", repr(error), "worker")
                self._start_reader()
                raise

    def _begin(self, ticket: _Ticket[T]) -> None:
        if self._closed:
            return
        ticket.began = time.monotonic()
        try:
            loaded = self._read(ticket.item)
            then = ticket.plan(loaded)
        except ReadError as error:
            self._fail(ticket, error.reason, error.detail, error.fault)
        except (OSError, MemoryError) as error:
            self._fail(ticket, "read-failed", f"{type(error).__name__}: {error}", "worker")
        else:
            ticket.url, ticket.metadata = loaded.url, loaded.metadata
            self._decode(ticket, loaded.data, then)

    def _decode(self, ticket: _Ticket[T], data: bytes, then: Callable[[Picture], T]) -> None:
        size = len(data)
        with self._state:
            ticket.decodes = ticket in self._open
            self._decoding += ticket.decodes
        self._await_room(size)
        future: Future[T] | None = None
        try:
            future = self._pool.submit(data, then)
        except RuntimeError as error:
            self._fail(ticket, "decoder-down", str(error), "worker")
        finally:
            if future is None:
                self._give_room(size)
        if future is not None:
            future.add_done_callback(functools.partial(self._decoded, ticket, size))

    def _await_room(self, size: int) -> None:
        with self._state:
            self._state.wait_for(lambda: self._closed or not self._held_bytes or self._held_bytes + size <= AHEAD_BYTES)
            self._held_bytes += size

    def _give_room(self, size: int) -> None:
        with self._state:
            self._held_bytes -= size
            self._state.notify_all()

    # ------------------------------------------------------------------ coming out

    def _decoded(self, ticket: _Ticket[T], size: int, future: Future[T]) -> None:
        self._give_room(size)
        if future.cancelled():
            self._fail(ticket, "decoder-down", "The decoders were closed before it was its turn.", "worker")
            return
        match future.exception():
            case None:
                self._finish(ticket, future.result(), None)
            case ImageError() as error:
                self._fail(ticket, error.reason, error.detail, "item")
            case CallError() as error:  # a traceback: what happened is at its end
                self._fail(ticket, "engine-failed", str(error)[-_MAX_DETAIL:], "worker")
            case error:
                self._fail(ticket, "decoder-down", str(error), "worker")

    def _fail(self, ticket: _Ticket[T], reason: str, detail: str, fault: Fault) -> None:
        said = detail.encode("utf-8", "backslashreplace").decode()[:_MAX_DETAIL]
        self._finish(ticket, None, FailedItem(index=ticket.item.index, reason=str(reason), detail=said, fault=fault))

    def _finish(self, ticket: _Ticket[T], made: T | None, failure: FailedItem | None) -> None:
        with self._state:
            if ticket not in self._open:
                return  # it came out when the feed was closed
            self._open.remove(ticket)
            self._decoding -= ticket.decodes
            self._posting += 1
        try:
            took = (time.monotonic() - ticket.began) * 1000
            self._post(Fed(ticket.item, made, failure, took, ticket.url, ticket.metadata))
        finally:
            with self._state:
                self._posting -= 1
                self._state.notify_all()
