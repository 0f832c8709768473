"""Remote files in blocks: what several threads want from one place is asked for once.

What it is for: `Blocks`, a bounded cache for reading here and there; `Forwards`, a file object for reading on and on.
What it must not know: tars, how servers are asked.

Invariants:
- A block is under way at most once; who wants it meanwhile waits for the same answer, also when that is an error.
- No more than ``most_bytes`` are kept, beside what is under way.
- `Forwards` gives fewer bytes than it was asked for at the end of the file and nowhere else.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Final, TypeAlias

from cfbus.sources.remote_files import RemoteFile

BLOCK_BYTES: Final = 4 << 20
KEPT_BYTES: Final = 64 << 20
SMALLEST_WINDOW: Final = 64 << 10
LARGEST_WINDOW: Final = 8 << 20

_Key: TypeAlias = tuple[RemoteFile, int]


class Blocks:
    """The blocks that were used last, of all files."""

    def __init__(self, block_bytes: int = BLOCK_BYTES, most_bytes: int = KEPT_BYTES) -> None:
        self._block_bytes = block_bytes
        self._most = max(1, most_bytes // block_bytes)
        self._lock = threading.Lock()
        self._blocks: OrderedDict[_Key, Future[bytes]] = OrderedDict()

    def read(self, file: RemoteFile, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer only where the file ends. Raises ReadError."""
        end = min(offset + size, file.size)
        if offset >= end:
            return b""
        length = self._block_bytes
        first = offset // length
        data = b"".join(self._block(file, number) for number in range(first, (end - 1) // length + 1))
        return data[offset - first * length : end - first * length]

    def _block(self, file: RemoteFile, number: int) -> bytes:
        key = file, number
        with self._lock:
            known = self._blocks.get(key)
            coming: Future[bytes] = known or Future()
            self._blocks[key] = coming
            self._blocks.move_to_end(key)
            while len(self._blocks) > self._most:
                self._blocks.popitem(last=False)
        if known is None:
            self._fetch(key, coming)
        return coming.result()

    def _fetch(self, key: _Key, coming: Future[bytes]) -> None:
        file, number = key
        try:
            coming.set_result(file.read(number * self._block_bytes, self._block_bytes))
        except BaseException as error:
            with self._lock:
                if self._blocks.get(key) is coming:
                    del self._blocks[key]
            coming.set_exception(error)
            if not isinstance(error, Exception):
                raise


class Forwards(io.RawIOBase):
    """A remote file as a file object. Reads ahead the more, the less is skipped; where much is, hardly anything."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file = file
        self._at = self._begin = 0
        self._window = file.first
        self._length = max(len(self._window), SMALLEST_WINDOW)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """As the file's own end has it: short nowhere else. Raises ReadError."""
        end = self._file.size if size < 0 else min(self._at + size, self._file.size)
        pieces = []
        while self._at < end:
            if not self._begin <= self._at < self._begin + len(self._window):
                self._fill()
            from_ = self._at - self._begin
            pieces.append(self._window[from_ : from_ + end - self._at])
            self._at += len(pieces[-1])
        return b"".join(pieces)

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _fill(self) -> None:
        skipped = self._at - (self._begin + len(self._window))
        if 0 <= skipped <= self._length:
            self._length = min(2 * self._length, LARGEST_WINDOW)
        else:
            self._length = max(self._length // 4, SMALLEST_WINDOW)
        self._window = self._file.read(self._at, self._length)
        self._begin = self._at
