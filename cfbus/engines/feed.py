"""From items to pictures, ahead of the engine: bytes are read in threads and decoded in child processes.

Knows neither leases nor the bus. Every item that goes in comes out once, as what ``then`` made of its picture or as a
failure with a reason and whose fault it is; one bad picture never touches its neighbours.
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
from cfbus.engines.base import Read
from cfbus.images import CallError, DecodePool, ImageError, Picture
from cfbus.sources.base import ReadError

READERS = 4
MAX_DETAIL = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fed(Generic[T]):
    """What became of an item: ``made`` by the call on its picture, or the ``failure``; and how long it took."""

    item: WorkItem
    made: T | None
    failure: FailedItem | None
    milliseconds: float


class Feed(Generic[T]):
    """Reads and decodes; ``post`` gets what is ready, from any thread."""

    def __init__(self, read: Read, pool: DecodePool, post: Callable[[Fed[T]], None]) -> None:
        self._read = read
        self._pool = pool
        self._post = post
        self._todo: queue.SimpleQueue[tuple[WorkItem, Callable[[Picture], T]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"read-{n}", daemon=True) for n in range(READERS)]
        for thread in self._threads:
            thread.start()

    def put(self, item: WorkItem, then: Callable[[Picture], T]) -> None:
        """Read this item, decode it, and call ``then`` (which must be picklable) on the picture in the child."""
        self._todo.put((item, then))

    def close(self) -> None:
        """Read no more."""
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(timeout=2.0)

    def _work(self) -> None:
        while (entry := self._todo.get()) is not None:
            item, then = entry
            began = time.monotonic()
            try:
                data = self._read(item)
            except ReadError as error:
                self._failed(item, error.reason, error.detail, error.fault, began)
                continue
            future = self._pool.submit(data, then)
            future.add_done_callback(functools.partial(self._decoded, item, began))

    def _decoded(self, item: WorkItem, began: float, future: Future[T]) -> None:
        try:
            made = future.result()
        except ImageError as error:
            self._failed(item, error.reason, error.detail, "item", began)
        except CallError as error:
            self._failed(item, "engine-failed", str(error), "worker", began)
        else:
            self._post(Fed(item, made, None, (time.monotonic() - began) * 1000))

    def _failed(self, item: WorkItem, reason: str, detail: str, fault: str, began: float) -> None:
        fields = {"index": item.index, "reason": str(reason), "detail": detail[:MAX_DETAIL], "fault": fault}
        failure = FailedItem.model_validate(fields)
        self._post(Fed(item, None, failure, (time.monotonic() - began) * 1000))
