"""Bytes of a file -> a safe, upright, bounded RGB picture, here or in child processes.

What it is for: `decode` is a pure function with limits; `DecodePool` runs it where a picture that
hangs, crashes or eats memory costs one task and nothing else.

What it must not know: sources, the bus, engines, the store. Children import this module and
nothing heavier, so it imports only the standard library, Pillow and the error tree.

Invariants:
- The number of pixels is checked from the header, before anything is unpacked.
- A picture is never enlarged, never wider x higher than the budget, never half a file.
- Each child has a private line to the parent: a child killed at any moment, even in mid-answer,
  can block or garble nobody else. (A pool whose children share one pipe behind a lock cannot
  promise this: the dead child may hold the lock.)
- Children are fresh interpreters, never forks: sockets, threads and the parent's main module do
  not exist in them. They end when their parent ends, however it ends.
- An `ImageError` accuses the picture. What is the fault of this host is never an `ImageError`.

A child is a fence against accidents and greed, not a sandbox: it runs as the same user.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import math
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
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast, overload

from PIL import ExifTags, Image, UnidentifiedImageError, features

from cfbus.errors import TryAgainError

T = TypeVar("T")

# Formats that people keep photographs in. AVIF depends on how Pillow was built. MPO (two-eyed
# JPEG) is opened through JPEG and reported by its own name.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM") + (("AVIF",) if features.check("avif") else ())

_KNOWN_STARTS: Final = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"8BPS", "Photoshop"), (b"\x00\x00\x01\x00", "ICO"),
    (b"%!PS", "PostScript"), (b"%PDF", "PDF"), (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"), (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"), (b"DDS ", "DDS"),
)  # fmt: skip

# Decoders are C libraries behind thin Python; on hostile bytes any of these comes out of them.
_ORDINARY: Final = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_START_SECONDS: Final = 60.0
_REAP_SECONDS: Final = 10.0
_BOOT: Final = "import sys; sys.path[:] = sys.argv[2:]; from cfbus.images import serve; serve(int(sys.argv[1]))"


class Reason(StrEnum):
    """Why a picture cannot be had: stable words, kept in the failures table."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not-an-image"
    UNSUPPORTED_FORMAT = "unsupported-format"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_LARGE_FILE = "too-large-file"
    DECODE_FAILED = "decode-failed"
    TIME_OUT = "time-out"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"


class ImageError(Exception):
    """This picture cannot be had; `detail` is one sentence for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both in args: that is what survives pickling
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class CallError(Exception):
    """The function given to `DecodePool.submit` raised; holds the child's traceback as text."""


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` is RGB, 8 bits, row by row, 3 * width * height bytes; original sizes are upright ones."""

    width: int
    height: int
    pixels: bytes
    original_width: int
    original_height: int
    format: str
    file_size: int
    sha256: bytes


@dataclass(frozen=True)
class Limits:
    """What one picture may cost. `pixel_budget` bounds the result, the others bound the input."""

    max_file_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 100_000_000
    pixel_budget: int = 1_048_576
    seconds: float = 20.0
    memory_mib: int = 2048
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        if min(self.max_file_bytes, self.max_pixels, self.pixel_budget, self.memory_mib) < 1:
            raise ValueError("limits of pictures must be at least 1")
        if self.seconds <= 0:
            raise ValueError("the seconds per picture must be above 0")


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode the first frame: upright, alpha on white, at most `limits.pixel_budget` pixels.

    Raises ImageError. Swaps the process's warning filters while it runs, so two threads of one
    process should not decode at the same time; `DecodePool` is the way to do many.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "The file has no bytes.")
    if len(data) > limits.max_file_bytes:
        raise ImageError(
            Reason.TOO_LARGE_FILE, f"The file has {len(data)} bytes; the limit is {limits.max_file_bytes}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _open(data, limits) as image:
                return _picture(image, data, limits)
        except MemoryError:
            raise ImageError(Reason.OUT_OF_MEMORY, "The picture needs more memory than it may use.") from None
        except _ORDINARY as error:
            raise _explained(error) from error


def _open(data: bytes, limits: Limits) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = limits.max_pixels  # Pillow's own check, also inside its plugins
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except Image.DecompressionBombError:
        raise ImageError(Reason.TOO_MANY_PIXELS, f"It has more than {2 * limits.max_pixels} pixels.") from None
    except UnidentifiedImageError:
        raise _unidentified(data, limits) from None
    width, height = image.size
    if width * height > limits.max_pixels:
        image.close()
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"It has {width} x {height} pixels; the limit is {limits.max_pixels} in all.",
        )
    return image


def _unidentified(data: bytes, limits: Limits) -> ImageError:
    name = _name_by_start(data)
    if name in limits.formats:
        return ImageError(Reason.DECODE_FAILED, f"It starts like {name}, but its header is damaged or cut off.")
    if name:
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"It looks like {name}, which is not accepted.")
    return ImageError(Reason.NOT_AN_IMAGE, "No accepted picture format was recognised in the file.")


def _name_by_start(data: bytes) -> str:
    for start, name in _KNOWN_STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIF or video"
    return "SVG" if b"<svg" in data[:1024].lower() else ""


def _explained(error: BaseException) -> ImageError:
    # Pillow has no class of its own for a cut-off file, only this word in the message.
    text = " ".join(str(error).split())[:200]
    if "truncated" in text.lower():
        return ImageError(Reason.TRUNCATED, f"The file is cut off ({text}).")
    return ImageError(Reason.DECODE_FAILED, f"The decoder gave up ({text or type(error).__name__}).")


def _picture(image: Image.Image, data: bytes, limits: Limits) -> Picture:
    name = image.format or "unknown"
    original = image.size
    target = bounded(*original, limits.pixel_budget)
    if image.format in ("JPEG", "MPO"):
        image.draft(None, target)  # unpacks at 1/2, 1/4 or 1/8, never below the target
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    image = _to_rgb(image)
    if image.size != target:
        image = image.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if turn is not None:
        image = image.transpose(turn)
        if turn not in (_UPRIGHT[2], _UPRIGHT[3], _UPRIGHT[4]):
            original = (original[1], original[0])
    return Picture(*image.size, image.tobytes(), *original, name, len(data), hashlib.sha256(data).digest())


def bounded(width: int, height: int, budget: int) -> tuple[int, int]:
    """The largest size of (about) the same aspect with at most `budget` pixels, 1 or more a side."""
    if width * height <= budget:
        return width, height
    scale = math.sqrt(budget / (width * height))
    # A sliver loses its aspect, not its bound: one side is 1, the other at most the budget.
    short = max(1, int(min(width, height) * scale))
    long = min(max(1, int(max(width, height) * scale)), budget // short)
    return (short, long) if width < height else (long, short)


def _orientation(image: Image.Image) -> int:
    """Asked after load: by then Pillow has turned TIFF itself and forgotten the tag."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _ORDINARY:
        return 1  # damaged metadata does not spoil a good picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16, 32 or floating bits: scaled to 8, because Pillow's own convert() clips."""
    # Pillow has scaled deep PPM to 16 bits already, but says only "I".
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode.startswith("I;16"):
        image = image.convert("I")
    low, high = cast("tuple[float, float]", image.getextrema())
    if not math.isfinite(high - low):
        raise ImageError(Reason.DECODE_FAILED, "Its pixels are not finite numbers.")
    if sixteen:
        low, high = 0.0, 65535.0
    elif low >= 0:
        # Nothing in the file says what is white: take the smallest customary range that holds it.
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = next(((0.0, white) for white in ranges if high <= white), (low, high))
    scale = 255.0 / ((high - low) or 1.0)
    return image.point(lambda value: value * scale - low * scale).convert("L")


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
        except OSError as error:
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
        """Raises ImageError, or what the child raised."""
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
        line.send_bytes(b"ready")
        while True:
            call = line.recv_bytes()
            line.send(_answer(line.recv_bytes(), call, limits))


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
    except _ORDINARY:
        return None, CallError(traceback.format_exc())
