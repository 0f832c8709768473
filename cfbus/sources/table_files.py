"""Files that tables are read from: on this disk or on the hub, as pyarrow wants them.

What it is for: `TableFile`, its end read once, any range after that; and what tells one file from another.
What it must not know: columns, rows, pictures.

Invariants:
- `Identity` is the size and the checksum of the footer. The footer names the place and size of every column of every
  row group, so a file that was written anew has another one.
- A file of the disk that was replaced or written to since it was opened is not read any further (`ReadReason.CHANGED`).
- The first error of reading is kept in `problem`: pyarrow may hide it behind one of its own.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cfbus.sources.base import ReadError, ReadReason

TAIL_BYTES: Final = 64 << 10
MAX_FOOTER_BYTES: Final = 256 << 20
_END_BYTES: Final = 8


class BadTableError(Exception):
    """This file is no table that can be read; the message is the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Identity:
    size: int
    footer_crc: int


class Bytes(Protocol):
    """Where a table's bytes come from."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, size: int) -> bytes:
        """Exactly so many bytes. Raises ReadError."""

    def check(self) -> None:
        """Raises ReadError when it is not the file any more that was opened."""

    def close(self) -> None: ...


class DiskBytes:
    """A file of this disk. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(0, "it is no regular file")
        self._state = _state(status)
        self.size = status.st_size

    def read(self, start: int, size: int) -> bytes:
        pieces, at, left = [], start, size
        try:
            while left and (piece := os.pread(self._fd, left, at)):
                pieces.append(piece)
                at += len(piece)
                left -= len(piece)
        except OSError as error:
            raise ReadError(ReadReason.UNREADABLE, f"The file cannot be read: {error.strerror}.", "worker") from None
        if left:
            raise _changed()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check(self) -> None:
        try:
            same = _state(self._path.stat()) == self._state
        except OSError:
            same = False
        if not same:
            raise _changed()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()  # the last thread that read from it is done


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _changed() -> ReadError:
    return ReadError(ReadReason.CHANGED, "The file is not the one that was listed.", "worker")


@dataclass(frozen=True, slots=True)
class HubBytes:
    """A file of one commit of the hub, which never changes; ``fetch`` takes start and size."""

    size: int
    fetch: Callable[[int, int], bytes]

    def read(self, start: int, size: int) -> bytes:
        return self.fetch(start, size)

    def check(self) -> None: ...

    def close(self) -> None: ...


class TableFile(io.RawIOBase):
    """A table's bytes for one reader. Raises BadTableError when it cannot be parquet, or ReadError."""

    def __init__(self, source: Bytes) -> None:
        super().__init__()
        self.problem: ReadError | None = None
        self._source = source
        self._at = 0
        self._tail = b""
        self._tail_at = source.size
        self.identity = self._identity()

    def _identity(self) -> Identity:
        size = self._source.size
        if size < 2 * _END_BYTES - 4:
            raise BadTableError("is no parquet file: it is too short" if size else "is no parquet file: it is empty")
        self._keep_tail(min(size, TAIL_BYTES))
        end = self._tail[-_END_BYTES:]
        if end[4:] == b"PARE":
            raise BadTableError("is encrypted")
        if end[4:] != b"PAR1":
            raise BadTableError("is no parquet file, or was cut off: the mark at its end is missing")
        footer = int.from_bytes(end[:4], "little") + _END_BYTES
        if footer > min(size, MAX_FOOTER_BYTES):
            raise BadTableError("is damaged: its footer cannot be so long")
        if footer > len(self._tail):
            self._keep_tail(footer)
        return Identity(size, zlib.crc32(self._tail[-footer:]))

    def _keep_tail(self, size: int) -> None:
        self._tail_at = self._source.size - size
        self._tail = self._source.read(self._tail_at, size)

    def forget_tail(self) -> None:
        """The footer was read; what follows is elsewhere."""
        self._tail, self._tail_at = b"", self._source.size

    def check(self) -> None:
        """See `Bytes.check`."""
        self._source.check()

    # -- what pyarrow calls

    def read(self, size: int = -1) -> bytes:
        left = max(self._source.size - self._at, 0)
        size = left if size is None or size < 0 else min(size, left)
        if self._at >= self._tail_at:
            begin = self._at - self._tail_at
            data = self._tail[begin : begin + size]
        else:
            try:
                data = self._source.read(self._at, size)
            except ReadError as error:
                self.problem = self.problem or error
                raise OSError(str(error)) from None
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        super().close()
        self._source.close()
