"""Pictures are decoded in child processes, where one that hangs, crashes or eats memory costs one task.

What it is for: `DecodePool` runs `cfbus.images.decode` in children, and a function on the picture.

What it must not know: sources, the bus, engines, the store. Children import this module and
nothing heavier but what the function needs, so it imports only the standard library, the
pictures and the error tree.

Invariants:
- Each child has a private line to the parent: a child killed at any moment, even in mid-answer,
  can block or garble nobody else. (A pool whose children share one pipe behind a lock cannot
  promise this: the dead child may hold the lock.)
- Children are fresh interpreters, never forks: sockets, threads and the parent's main module do
  not exist in them. They end when their parent ends, however it ends.
- Every task ends: with what was asked for or an error, or cancelled by `close`.
- What is the fault of this host is never an `ImageError`.

A child is a fence against accidents and greed, not a sandbox: it runs as the same user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from cfbus.errors import TryAgainError
from cfbus.images import DECODER_ERRORS, ImageError, Limits, Picture, Reason, decode

T = TypeVar("T")

_START_SECONDS: Final = 60.0
_REAP_SECONDS: Final = 10.0
_BOOT: Final = "import sys; sys.path[:] = sys.argv[2:]; from cfbus.decoding import serve; serve(int(sys.argv[1]))"


class CallError(Exception):
    """The function given to `DecodePool.submit` raised; holds the child's traceback as text."""


@dataclass(frozen=True, slots=True)
class _Task:
    future: Future[Any]
    data: bytes
    call: bytes


class DecodePool:
    """Child processes that decode, one task at a time each.

    Results: what was asked for; ImageError for this picture; CallError for a `then` that raised;
    TryAgainError when this host cannot run children or the pool was closed in mid-task. An idle
    pool uses no CPU. The number of tasks waiting is the caller's to bound.
    """

    def __init__(self, processes: int, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._children: dict[int, _Child] = {}
        self._seats = [
            threading.Thread(target=self._sit, args=(n,), name=f"decode-{n}", daemon=True) for n in range(processes)
        ]
        for seat in self._seats:
            seat.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def submit(self, data: bytes) -> Future[Picture]: ...
    @overload
    def submit(self, data: bytes, then: Callable[[Picture], T]) -> Future[T]: ...
    def submit(self, data: bytes, then: Callable[[Picture], Any] | None = None) -> Future[Any]:
        """Decode `data` in a child and return the picture, or what `then` makes of it there.

        `then` must be importable by name (a module's function, or a partial of one); its answer
        must be picklable. Never blocks. Raises RuntimeError after close().
        """
        task = _Task(Future(), data, b"" if then is None else bytes(ForkingPickler.dumps(then)))
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._tasks.put(task)
        return task.future

    @property
    def processes(self) -> int:
        """How many there are."""
        return len(self._seats)

    def close(self, timeout: float = 5.0) -> None:
        """Cancel what waits, end the children at once, return within `timeout` seconds."""
        with self._lock:
            self._closed = True
            children = list(self._children.values())
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task.future.cancel()
        for child in children:
            child.kill()
        for _ in self._seats:
            self._tasks.put(None)
        for seat in self._seats:
            seat.join(timeout / len(self._seats))

    def _sit(self, seat: int) -> None:
        """One thread per child; it waits in the queue or on its child's line, never polls."""
        with contextlib.suppress(OSError, TryAgainError):
            self._child(seat)  # warm before the first task; if it fails, the first task says so
        try:
            while (task := self._tasks.get()) is not None:
                if task.future.set_running_or_notify_cancel():
                    self._settle(task, seat)
        finally:
            with self._lock:
                child = self._children.pop(seat, None)
            if child is not None:
                child.end()

    def _settle(self, task: _Task, seat: int) -> None:
        try:
            answer = self._child(seat).ask(task.call, task.data)
        except (ImageError, CallError, TryAgainError) as error:
            task.future.set_exception(_closed() if self._closed else error)
        except (OSError, subprocess.SubprocessError) as error:
            task.future.set_exception(_cannot_start(str(error)))
        else:
            task.future.set_result(answer)

    def _child(self, seat: int) -> _Child:
        child = self._children.get(seat)
        if child is not None and child.alive():
            return child
        if child is not None:
            child.end()
        child = _Child(self._limits)
        with self._lock:
            self._children[seat] = child
            if self._closed:
                child.kill()
        child.await_ready()
        return child


def _closed() -> TryAgainError:
    return TryAgainError("The pictures were not finished before their pool was closed.")


def _cannot_start(why: str) -> TryAgainError:
    return TryAgainError(
        f"A process that decodes pictures could not be started: {why}.",
        "Check the free memory and the limits on processes and open files (ulimit -a).",
    )


class _Child:
    """One child process and the private line to it; used by one thread, `kill` by any."""

    def __init__(self, limits: Limits) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # For each wait of ours: a child that stops in mid-message holds its thread no longer either.
            whole, part = divmod(limits.seconds, 1)
            stall = struct.pack("@ll", int(whole), max(1, int(part * 1e6)))
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stall)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), *sys.path],
                stdin=subprocess.PIPE,  # never written to: its end tells the child that we are gone
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C in a terminal belongs to the parent
                # Children are the parallelism; a numeric library in `then` must add no threads,
                # whose stacks and buffers would count against the memory limit.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self._line = Connection(ours.detach())
        self._limits = limits

    def alive(self) -> bool:
        return not self._line.closed and self._process.poll() is None

    def await_ready(self) -> None:
        """Raises TryAgainError when the child does not come up."""
        try:
            self._line.send(self._limits)
            if not self._line.poll(_START_SECONDS):
                raise _cannot_start(f"it did not answer within {_START_SECONDS:.0f} seconds")
            self._line.recv_bytes()
        except (OSError, EOFError) as error:
            raise _cannot_start(f"it ended at once ({self.end(grace=1.0)})") from error
        except TryAgainError:
            self.end()
            raise

    def ask(self, call: bytes, data: bytes) -> object:
        """Raises ImageError or CallError."""
        try:
            self._line.send_bytes(call)
            self._line.send_bytes(data)
            value, error = self._line.recv()
        except BlockingIOError:  # the line's own time limit
            self.end()
            detail = f"It was not done within {self._limits.seconds:g} seconds."
            raise ImageError(Reason.TIME_OUT, detail) from None
        except (OSError, EOFError):
            # The broken line is seen a moment before the exit status is there.
            how = self.end(grace=1.0)
            raise ImageError(Reason.CRASHED, f"The process that decoded it ended ({how}).") from None
        except DECODER_ERRORS:  # the answer came whole, but is nothing that this process can make an object of
            raise CallError(traceback.format_exc()) from None
        if error is not None:
            raise error
        return value

    def kill(self) -> None:
        self._process.kill()

    def end(self, grace: float = 0.0) -> str:
        """Kill, reap and close; returns how the process ended, by itself within `grace` seconds or not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        code = self._process.wait(_REAP_SECONDS)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._line.close()
        return signal.Signals(-code).name if code < 0 else f"status {code}"


def serve(fd: int) -> None:
    """The life of a child, on its end of the line. Returns when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    with contextlib.suppress(EOFError, ConnectionError), Connection(fd) as line:
        limits: Limits = line.recv()
        _lower(resource.RLIMIT_AS, limits.memory_mib * 1024 * 1024)
        _lower(resource.RLIMIT_CORE, 0)
        _say_no_more()
        line.send_bytes(b"ready")
        while True:
            call = line.recv_bytes()
            line.send(_answer(line.recv_bytes(), call, limits))


def _say_no_more() -> None:
    """Libraries in C write to stderr what they think of a picture; that is no place for a stranger's words."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _end_with_parent() -> None:
    """Let the kernel send SIGIO, whose default is to end us, when stdin's writer is gone.

    It works in the middle of a C library's loop too, where no thread of ours would get to run.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _lower(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(what, (limit, limit))


def _answer(data: bytes, call: bytes, limits: Limits) -> tuple[object, ImageError | CallError | None]:
    try:
        picture = decode(data, limits)
        return (ForkingPickler.loads(call)(picture) if call else picture), None
    except ImageError as error:
        return None, error
    except MemoryError:
        return None, ImageError(Reason.OUT_OF_MEMORY, "What was to be done with it needs too much memory.")
    except DECODER_ERRORS:
        return None, CallError(traceback.format_exc())
