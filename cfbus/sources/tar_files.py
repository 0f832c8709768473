"""Open tars, read at any place by several threads: plain ones in place, packed ones through one forward stream.

What it is for: `TarFiles`, a few tars kept open.
What it must not know: listings, samples, which tars may be opened.

Invariants:
- Reading places in ascending order reads each byte once. Behind the furthest place of a packed tar, `BEHIND_BYTES`
  stay in memory, so that threads which take turns do not start it again; what lies further back does.
- Nothing is kept of a file but its descriptor and that memory; a file that was replaced is opened anew.
"""

from __future__ import annotations

import gzip
import os
import threading
import zlib
from collections import OrderedDict, deque
from pathlib import Path
from typing import Final

from cfbus.sources.tar_members import is_gzip

KEPT_OPEN: Final = 4
BEHIND_BYTES: Final = 32 << 20
_STEP_BYTES: Final = 1 << 20


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

    def __del__(self) -> None:
        os.close(self._fd)  # the last thread that read from it is done


class _Packed:
    """A tar behind gzip: unpacked forwards, the last pieces kept."""

    def __init__(self, fd: int) -> None:
        self._lock = threading.Lock()
        self._fd = fd
        self._start()

    def _start(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._raw = os.fdopen(os.dup(self._fd), "rb")
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
        os.close(self._fd)


class TarFiles:
    """Tars by path; the ones used last are kept open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, tuple[tuple[int, int], _Plain | _Packed]] = OrderedDict()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """``size`` bytes of the (unpacked) tar from ``offset`` on, fewer where it ends. Raises OSError."""
        return self._file(path).read(offset, size)

    def _file(self, path: Path) -> _Plain | _Packed:
        status = path.stat()
        identity = status.st_dev, status.st_ino
        with self._lock:
            known = self._open.get(path)
            if known is None or known[0] != identity:
                known = identity, _opened(path)
                self._open[path] = known
            self._open.move_to_end(path)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return known[1]

    def close(self) -> None:
        """Close what no thread reads any more."""
        with self._lock:
            self._open.clear()


def _opened(path: Path) -> _Plain | _Packed:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        start = os.pread(fd, 2, 0)
    except OSError:
        os.close(fd)
        raise
    return _Packed(fd) if is_gzip(start) else _Plain(fd)
