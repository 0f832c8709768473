"""Open tars, read at any place by several threads: plain ones in place, packed ones through one forward stream.

What it is for: `TarFiles`, a few tars kept open: files by their path, remote ones by their address.
What it must not know: listings, samples, which tars may be opened.

Invariants:
- Reading places in ascending order reads each byte once. Behind the furthest place of a packed tar, `BEHIND_BYTES`
  stay in memory, so that threads which take turns do not start it again; what lies further back does. Of remote tars,
  whole blocks are asked for, and kept for a while.
- Nothing is kept of a file but its descriptor and that memory; a file that was replaced or written to is opened anew.
- What an `OpenTar` gives is of one version of the tar, the one that its ``stamp`` stands for, wherever `check` passes
  afterwards.
"""

from __future__ import annotations

import gzip
import os
import threading
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias, cast

from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.remote_blocks import Blocks, Forwards
from cfbus.sources.remote_files import RemoteFile, RemoteFiles, stamp_of
from cfbus.sources.tar_members import is_gzip

KEPT_OPEN: Final = 4
KEPT_REMOTE: Final = 16
BEHIND_BYTES: Final = 32 << 20
_STEP_BYTES: Final = 1 << 20
_FIRST_BYTES: Final = 512

Place: TypeAlias = Path | str
"""A path, or an address."""


class OpenTar(Protocol):
    """One version of a tar."""

    @property
    def stamp(self) -> bytes:
        """Eight bytes that differ from those of any other version."""

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the (unpacked) tar from ``offset`` on, fewer where it ends. Raises OSError, ReadError."""

    def check(self) -> None:
        """Raises ReadError when the tar changed since it was opened, so that what was read may be of both."""


def stamp_at(status: os.stat_result) -> bytes:
    """The stamp of a file: its size, and its time in whole seconds, which every file system and copy keeps."""
    return stamp_of(status.st_size, str(status.st_mtime_ns // 1_000_000_000))


class _Plain:
    """A tar as it lies on the disk."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, offset: int, size: int) -> bytes:
        pieces = []
        while size and (piece := os.pread(self._fd, size, offset)):
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return b"".join(pieces)


class _Packed:
    """A tar behind gzip: unpacked forwards, the last pieces kept. ``begin`` gives the packed bytes from their start."""

    def __init__(self, begin: Callable[[], IO[bytes]]) -> None:
        self._lock = threading.Lock()
        self._from_start = begin
        self._start()

    def _start(self) -> None:
        self._raw = self._from_start()
        self._stream = gzip.GzipFile(fileobj=self._raw)
        self._pieces: deque[bytes] = deque()
        self._begin = self._end = 0

    def _restart(self) -> None:
        self._close()
        self._start()

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            if offset < self._begin:
                self._restart()
            while self._end < offset + size and self._step():
                self._drop(offset)
            return self._kept(offset, size)

    def _step(self) -> bool:
        try:
            piece = self._stream.read(_STEP_BYTES)
        except ReadError:
            self._restart()  # the next attempt must not go on in the middle of a broken one
            raise
        except (EOFError, zlib.error) as error:
            raise gzip.BadGzipFile(str(error)) from error
        self._pieces.append(piece)
        self._end += len(piece)
        return bool(piece)

    def _drop(self, offset: int) -> None:
        """Forget what lies far behind; never what is being read."""
        while self._end - self._begin > BEHIND_BYTES and self._begin + len(self._pieces[0]) <= offset:
            self._begin += len(self._pieces.popleft())

    def _kept(self, offset: int, size: int) -> bytes:
        found, at = [], self._begin
        for piece in self._pieces:
            if at + len(piece) > offset and at < offset + size:
                found.append(piece[max(offset - at, 0) : offset + size - at])
            at += len(piece)
        return b"".join(found)

    def _close(self) -> None:
        self._stream.close()
        self._raw.close()

    def __del__(self) -> None:
        self._close()


class _LocalTar:
    """A tar on a disk."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._status = os.fstat(self._fd)
        self.stamp = stamp_at(self._status)
        packed = is_gzip(os.pread(self._fd, 2, 0))
        bytes_: _Plain | _Packed = _Packed(partial(_from_start, self._fd)) if packed else _Plain(self._fd)
        self.read = bytes_.read

    def check(self) -> None:
        if version_of(os.fstat(self._fd)) != version_of(self._status):
            raise ReadError(ReadReason.CHANGED, "The tar was written to while it was read.", "worker")

    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be opened
            os.close(self._fd)  # the last thread that read from it is done


def _from_start(fd: int) -> IO[bytes]:
    os.lseek(fd, 0, os.SEEK_SET)
    return os.fdopen(os.dup(fd), "rb")


class _RemoteTar:
    """A tar behind an address; each of its answers is of this version."""

    def __init__(self, file: RemoteFile, blocks: Blocks) -> None:
        self._file = file
        self._blocks = blocks
        self.stamp = file.stamp
        packed = is_gzip(file.first)
        self._packed = _Packed(lambda: cast(IO[bytes], Forwards(file))) if packed else None

    def read(self, offset: int, size: int) -> bytes:
        if self._packed is not None:
            return self._packed.read(offset, size)
        return self._blocks.read(self._file, offset, size)

    def check(self) -> None:
        """Nothing: `RemoteFile.read` has."""


def version_of(status: os.stat_result) -> tuple[int, int]:
    """What shows that a file which is open was written to."""
    return status.st_size, status.st_mtime_ns


class TarFiles:
    """Tars by their place; the ones used last are kept open."""

    def __init__(self, remote: RemoteFiles) -> None:
        self._remote = remote
        self._blocks = Blocks()
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, tuple[tuple[int, ...], OpenTar]] = OrderedDict()
        self._answers: OrderedDict[str, tuple[threading.Lock, list[OpenTar]]] = OrderedDict()

    def opened(self, place: Place) -> OpenTar:
        """The tar as it is now. Raises OSError, ReadError."""
        return self._local(place) if isinstance(place, Path) else self._away(place)

    def forget(self, place: Place) -> None:
        """Open it anew the next time: it is not what it was."""
        with self._lock:
            self._answers.pop(str(place), None)

    def _local(self, path: Path) -> OpenTar:
        status = path.stat()
        identity = status.st_dev, status.st_ino, *version_of(status)
        with self._lock:
            known = self._open.get(path)
            if known is None or known[0] != identity:
                known = identity, _LocalTar(path)
                self._open[path] = known
            self._open.move_to_end(path)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return known[1]

    def _away(self, address: str) -> OpenTar:
        with self._lock:
            turn, known = self._answers.setdefault(address, (threading.Lock(), []))
            self._answers.move_to_end(address)
            while len(self._answers) > KEPT_REMOTE:
                self._answers.popitem(last=False)
        with turn:  # of many threads that want it first, one asks
            if not known:
                known.append(_RemoteTar(self._remote.open(address, _FIRST_BYTES), self._blocks))
        return known[0]

    def close(self) -> None:
        """Close what no thread reads any more."""
        with self._lock:
            self._open.clear()
            self._answers.clear()
