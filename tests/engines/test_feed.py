"""Whatever reading and decoding do, each item comes out once, with the right reason and fault."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, cast

import pytest
from engine_rig import items_of

from cfbus.core.outcome import WorkItem
from cfbus.decoding import CallError, DecodePool
from cfbus.engines import feed
from cfbus.engines.base import Loaded
from cfbus.engines.feed import Fed, Feed
from cfbus.errors import TryAgainError
from cfbus.images import ImageError, Picture, Reason
from cfbus.sources.base import DISK_READERS, ReadError, ReadReason

LOUD = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class OddError(Exception):
    """One that nobody expects."""


def as_it_is(loaded: Loaded) -> Callable[[Picture], Any]:
    if loaded.data == b"bad column":
        raise ReadError(ReadReason.MISSING_COLUMN, "It has no column.", "item")
    return lambda picture: picture


class FakePool:
    """Does at once, or holds, what the data say."""

    def __init__(self) -> None:
        self.held: list[Future[Any]] = []
        self.state = threading.Condition()

    def submit(self, data: bytes, then: Callable[[Picture], Any]) -> Future[Any]:
        if data == b"pool closed":
            raise RuntimeError("the pool is closed")
        if data == b"not picklable":
            raise AttributeError("cannot pickle")
        future: Future[Any] = Future()
        if data == b"cancelled":
            future.cancel()
            future.set_running_or_notify_cancel()
        elif data in ENDS:
            future.set_exception(ENDS[data])
        elif data.startswith(b"hold"):
            with self.state:
                self.held.append(future)
                self.state.notify_all()
        else:
            future.set_result(data)
        return future


ENDS = {
    b"bad": ImageError(Reason.TRUNCATED, "It is cut off."),
    b"bug": CallError("Traceback: " + "x" * 5000 + "ValueError: at the end"),
    b"no child": TryAgainError("no memory"),
    b"odd": OddError("what?"),
}
READS: dict[str, BaseException] = {
    "gone": ReadError(ReadReason.VANISHED, "The file is gone.", "item"),
    "away": ReadError(ReadReason.SOURCE_MISSING, "bad name \udcff", "worker"),
    "broken": OSError(5, "Input/output error"),
    "odd read": OddError("a bug in a source"),
    "leave": SystemExit(3),
}
EXPECTED = {
    "fine": None,
    "bad": ("truncated", "item"),
    "bug": ("engine-failed", "worker"),
    "no child": ("decoder-down", "worker"),
    "odd": ("decoder-down", "worker"),
    "cancelled": ("decoder-down", "worker"),
    "pool closed": ("decoder-down", "worker"),
    "not picklable": ("engine-failed", "worker"),
    "bad column": ("missing-column", "item"),
    "gone": ("vanished", "item"),
    "away": ("source-missing", "worker"),
    "broken": ("read-failed", "worker"),
    "odd read": ("engine-failed", "worker"),
    "leave": ("engine-failed", "worker"),
}


class Rig:
    """A feed over a fake pool; ``deeds`` say what happens to the item of each index."""

    def __init__(self, deeds: list[str], read: Callable[[WorkItem], Loaded] | None = None) -> None:
        self.deeds = deeds
        self.pool = FakePool()
        self.items = items_of(len(deeds))
        self.state = threading.Condition()
        self.fed: list[Fed[Any]] = []
        self.feed: Feed[Any] = Feed(read or self.read, cast(DecodePool, self.pool), self.post)

    def read(self, item: WorkItem) -> Loaded:
        deed = self.deeds[item.index]
        if deed in READS:
            raise READS[deed]
        return Loaded(deed.encode())

    def post(self, fed: Fed[Any]) -> None:
        with self.state:
            self.fed.append(fed)
            self.state.notify_all()

    def put_all(self) -> None:
        for item in self.items:
            self.feed.put(item, as_it_is)

    def wait_for(self, count: int) -> None:
        with self.state:
            assert self.state.wait_for(lambda: len(self.fed) >= count, 30), len(self.fed)

    def await_held(self, count: int) -> list[Future[Any]]:
        with self.pool.state:
            assert self.pool.state.wait_for(lambda: len(self.pool.held) >= count, 30)
            return list(self.pool.held)


@contextmanager
def rig(deeds: list[str], read: Callable[[WorkItem], Loaded] | None = None) -> Iterator[Rig]:
    before = set(threading.enumerate())
    made = Rig(deeds, read)
    try:
        yield made
    finally:
        made.feed.close()
    assert set(threading.enumerate()) <= before


@LOUD
def test_each_item_comes_out_once_with_its_reason_and_fault() -> None:
    deeds = [deed for deed in EXPECTED for _ in range(12)]
    random.Random(4).shuffle(deeds)
    with rig(deeds) as run:
        run.put_all()
        run.wait_for(len(deeds))
    assert sorted(fed.item.index for fed in run.fed) == list(range(len(deeds)))
    for fed in run.fed:
        deed = deeds[fed.item.index]
        failure = fed.failure
        assert (failure and (failure.reason, failure.fault)) == EXPECTED[deed]
        assert fed.made == (deed.encode() if failure is None else None)
        assert failure is None or failure.index == fed.item.index


def test_of_a_traceback_the_end_is_kept() -> None:
    with rig(["bug"]) as run:
        run.put_all()
        run.wait_for(1)
    assert run.fed[0].failure is not None
    assert run.fed[0].failure.detail.endswith("ValueError: at the end")


def test_close_fails_what_is_left_and_nothing_comes_out_afterwards() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def read(item: WorkItem) -> Loaded:
        if item.index >= 2:
            begun.set()
            go_on.wait(30)
        return Loaded(b"hold" if item.index < 2 else b"fine")

    before = set(threading.enumerate())
    run = Rig(["fine"] * 40, read)
    run.put_all()
    held = run.await_held(2)
    assert begun.wait(30)
    began = time.monotonic()
    run.feed.close()
    assert time.monotonic() - began < 25  # who reads goes on after thirty seconds
    assert sorted(fed.item.index for fed in run.fed) == list(range(40))
    assert {fed.failure and (fed.failure.reason, fed.failure.fault) for fed in run.fed} == {("closed", "worker")}
    go_on.set()
    for future in held:
        future.set_result(b"late")
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    run.feed.close()
    assert len(run.fed) == 40
    with pytest.raises(RuntimeError):
        run.feed.put(run.items[0], as_it_is)


def test_close_waits_for_a_post_in_progress() -> None:
    inside, closes = threading.Event(), threading.Event()
    returned_early: list[bool] = []

    def post(fed: Fed[Any]) -> None:
        inside.set()
        assert closes.wait(30)
        closing.join(0.3)
        returned_early.append(not closing.is_alive())

    pool = FakePool()
    made: Feed[Any] = Feed(lambda item: Loaded(b"hold"), cast(DecodePool, pool), post)
    closing = threading.Thread(target=made.close)
    made.put(items_of(1)[0], as_it_is)
    with pool.state:
        assert pool.state.wait_for(lambda: bool(pool.held), 30)
    decoding = threading.Thread(target=pool.held[0].set_result, args=(b"",))
    decoding.start()
    assert inside.wait(30)
    closing.start()
    closes.set()
    closing.join(30)
    decoding.join(30)
    assert returned_early == [False]


def test_reading_stops_when_too_many_bytes_wait_for_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "AHEAD_BYTES", 1000)
    state = threading.Condition()
    read, most, decoded = 0, 0, 0

    def hold(item: WorkItem) -> Loaded:
        nonlocal read, most
        with state:
            read += 1
            most = max(most, read - decoded)
            state.notify_all()
        return Loaded(b"hold".ljust(400))

    bound = 2 + DISK_READERS
    with rig(["hold"] * 30, hold) as run:
        run.put_all()
        with state:
            assert state.wait_for(lambda: read == bound, 30)
        for count in range(30):
            future = run.await_held(count + 1)[count]
            with state:
                decoded += 1
            future.set_result(b"")
        run.wait_for(30)
    assert most == bound


def test_one_file_of_any_size_may_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "AHEAD_BYTES", 10)
    with rig(["x" * 5000] * 8) as run:
        run.put_all()
        run.wait_for(8)
    assert all(fed.failure is None for fed in run.fed)


def test_close_lets_readers_go_that_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "AHEAD_BYTES", 10)
    with rig(["hold"] * 8, lambda item: Loaded(b"hold".ljust(9))) as run:
        run.put_all()
        run.await_held(1)
    assert len(run.fed) == 8


def test_as_many_are_read_at_once_as_the_source_says() -> None:
    together = threading.Barrier(9)

    def read(item: WorkItem) -> Loaded:
        together.wait(30)
        return Loaded(b"x")

    fed: queue.SimpleQueue[Fed[Any]] = queue.SimpleQueue()
    made: Feed[Any] = Feed(read, cast(DecodePool, FakePool()), fed.put, 9)
    try:
        for item in items_of(9):
            made.put(item, as_it_is)
        assert [fed.get(timeout=30).failure for _ in range(9)] == [None] * 9
    finally:
        made.close()
