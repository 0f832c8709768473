"""What a tar holds, as a walk over its headers: regular members, and what else there is; or why it cannot be trusted.

What it is for: `members`, a walk that costs bounded memory and time whatever the file says, and that never takes a
tar that was cut off for a whole one.
What it must not know: samples, keys, pictures, how a member is read again.

Headers are parsed by Python's `tarfile` (ustar, pax, GNU long names, base-256 numbers). It ends silently at a header
that it cannot read, reads an extended header of any size into memory, and goes backwards on a negative size; the
walk here notices all three.

Invariants:
- Members come in the order of their offsets, which only grow.
- The walk ends without an error only at the tar's own end mark, a block of zeros.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

BLOCK: Final = 512
WALK_BYTES: Final = 1 << 20
MAX_HEADER_BYTES: Final = 1 << 20
MAX_MEMBERS: Final = 1 << 24
GZIP_FREE_BYTES: Final = 1 << 30
GZIP_RATIO: Final = 64
"""Beyond a gigabyte, what unpacks to more than so many times its size is no tar of pictures."""
_OTHER_PACKERS: Final = ((b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK", "zip"))
_PARSE_ERRORS: Final = (tarfile.TarError, EOFError, LookupError, OverflowError, RecursionError, ValueError, zlib.error)


class BadTarError(Exception):
    """This tar cannot be listed; the message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Member:
    """``offset`` and ``size`` say where the data lie in the (unpacked) tar; the block before them is the header, with
    ``header_crc``. ``kind`` is empty for a regular file, else what it is instead."""

    name: bytes
    offset: int
    size: int
    header_crc: int
    kind: str


class _Bounded:
    """The file as `tarfile` may have it: large pieces are refused, and the last header block is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise BadTarError(f"it has a header of more than {MAX_HEADER_BYTES >> 10} KiB")
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def is_gzip(start: bytes) -> bool:
    """Whether a file that begins like this was packed by gzip."""
    return start.startswith(b"\x1f\x8b")


def members(path: Path) -> Iterator[Member]:
    """All members but folders, in their order. Raises BadTarError, OSError."""
    with path.open("rb", buffering=WALK_BYTES) as file:
        yield from members_of(file)


def members_of(file: IO[bytes]) -> Iterator[Member]:
    """All members of an open file but folders, in their order. Raises BadTarError, and what the file raises."""
    start = file.read(BLOCK)
    _check_start(start)
    size = file.seek(0, 2)
    file.seek(0)
    if is_gzip(start):
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield from _walk(cast(IO[bytes], unpacked), GZIP_FREE_BYTES + GZIP_RATIO * size, packed=True)
    else:
        yield from _walk(file, size, packed=False)


def is_header_of(header: bytes, name: str, size: int) -> bool:
    """Whether this block is the header of a regular member of this size and name; capitals make no difference."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except _PARSE_ERRORS:
        return False
    return info.isreg() and info.size == size and info.name.lower() == name.lower()


def _check_start(start: bytes) -> None:
    if not start:
        raise BadTarError("it is empty")
    packer = next((name for magic, name in _OTHER_PACKERS if start.startswith(magic)), "")
    if packer:
        raise BadTarError(f"it is packed by {packer}; plain tars and gzip are read")


def _walk(file: IO[bytes], limit: int, *, packed: bool) -> Iterator[Member]:
    bounded = _Bounded(file)
    try:
        tar = tarfile.TarFile(fileobj=cast(IO[bytes], bounded), encoding="utf-8", errors="surrogateescape")
        end = count = 0
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            count += 1
            _check_place(info, tar.offset, end, count)
            end = tar.offset
            if end > limit:
                raise BadTarError(_beyond(info, packed=packed))
            if not info.isdir():
                yield _member(info, bounded.last)
        _check_end(file, tar.offset)
    except _PARSE_ERRORS as error:
        raise BadTarError(f"it is damaged: {_told(error)}") from error
    except gzip.BadGzipFile as error:
        raise BadTarError(f"its gzip stream is damaged: {_told(error)}") from error


def _check_place(info: tarfile.TarInfo, offset: int, end: int, count: int) -> None:
    if info.size < 0 or info.offset_data < end or offset < info.offset_data:
        raise BadTarError(f"it is damaged: a member's size leads backwards, before byte {info.offset_data}")
    if count > MAX_MEMBERS:
        raise BadTarError(f"it has more than {MAX_MEMBERS} members")


def _beyond(info: tarfile.TarInfo, *, packed: bool) -> str:
    name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")[:200]
    if packed:
        return f"it unpacks to more than {GZIP_RATIO} times its size, at {name}"
    return f"it is cut off, or lies: {name} would end at byte {info.offset_data + info.size}, beyond its end"


def _member(info: tarfile.TarInfo, header: bytes) -> Member:
    kind = "" if info.isreg() else _KINDS.get(info.type, "something odd")
    if info.issparse():
        kind = "a sparse file"
    name = info.name.encode("utf-8", "surrogateescape")
    return Member(name, info.offset_data, info.size, zlib.crc32(header), kind)


_KINDS: Final = {
    tarfile.LNKTYPE: "a link", tarfile.SYMTYPE: "a link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}  # fmt: skip


def _check_end(file: IO[bytes], offset: int) -> None:
    """`tarfile` stops at whatever is no header: only zeros are an end."""
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise BadTarError(f"it is cut off: it ends at byte {offset + len(block)} without an end mark")
    if any(block):
        raise BadTarError(f"it is damaged: there is no header at byte {offset}")


def _told(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "too many extended headers in a row"
    return " ".join(str(error).split())[:200] or type(error).__name__
