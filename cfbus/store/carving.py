"""Frames out of a damaged journal file, page by page, without SQLite: one broken page makes SQLite refuse all others.

Knows how SQLite lays out table rows (https://www.sqlite.org/fileformat2.html) and that a journal file has one table.
Reads the file and its log into memory, changes nothing. The checksums of each row decide what is whole; so whatever a
broken page seems to say, no wrong frame comes out.

Invariants: no input makes it loop or read outside of the file; a frame is given once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from cfbus.core.frame import JournalFrame
from cfbus.store.durable import disk_errors
from cfbus.store.journal import PAGE_BYTES, frame_of_row

_LOG_HEADER, _LOG_FRAME = 32, 24
_FILE_HEADER = 100  # at the beginning of page 1
_LEAF = 0x0D  # the first byte of a page with rows
_COLUMNS = 14
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def carve(path: Path) -> dict[int, JournalFrame]:
    """All whole frames of a journal file and of the log beside it, by position."""
    pages = _pages(path)
    # The newest copy of a page; a chain of pages was written once, so all copies of it are the same.
    newest = dict(pages)
    found: dict[int, JournalFrame] = {}
    for number, page in pages:
        for row in _rows(page, _FILE_HEADER if number == 1 else 0, newest):
            frame = frame_of_row(row)
            if frame is not None:
                # What a transaction left that was taken back stands behind what counts.
                found.setdefault(frame.position, frame)
    return dict(sorted(found.items()))


def _pages(path: Path) -> list[tuple[int, bytes]]:
    """Numbers and contents of pages, in the file and then in its log."""
    with disk_errors(path):
        data = path.read_bytes()
        log_path = path.with_name(path.name + "-wal")
        log = log_path.read_bytes() if log_path.exists() else b""
    pages = [(at // PAGE_BYTES + 1, data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES)]
    for at in range(_LOG_HEADER, len(log), _LOG_FRAME + PAGE_BYTES):
        head, page = log[at : at + _LOG_FRAME], log[at + _LOG_FRAME : at + _LOG_FRAME + PAGE_BYTES]
        if len(page) == PAGE_BYTES:
            pages.append((struct.unpack_from(">I", head)[0], page))
    return pages


def _rows(page: bytes, start: int, pages: Mapping[int, bytes]) -> Iterator[list[object]]:
    """The rows of a page; none if it is not one with rows."""
    if len(page) <= start + 8 or page[start] != _LEAF:
        return
    (count,) = struct.unpack_from(">H", page, start + 3)
    for number in range(min(count, (len(page) - start - 8) // 2)):
        (at,) = struct.unpack_from(">H", page, start + 8 + 2 * number)
        try:
            yield _row(page, at, pages)
        except (IndexError, KeyError, ValueError, struct.error):
            continue


def _row(page: bytes, at: int, pages: Mapping[int, bytes]) -> list[object]:
    size, at = _varint(page, at)
    position, at = _varint(page, at)
    if size > len(pages) * PAGE_BYTES:
        raise ValueError("longer than the file")
    record = _payload(page, at, size, pages)
    header_size, at = _varint(record, 0)
    kinds = []
    while at < header_size:
        kind, at = _varint(record, at)
        kinds.append(kind)
    if at != header_size or len(kinds) != _COLUMNS:
        raise ValueError("not a row of ours")
    values: list[object] = []
    for kind in kinds:
        value, at = _value(record, at, kind)
        values.append(value)
    values[0] = position  # the key of the table stands before the record
    return values


def _payload(page: bytes, at: int, size: int, pages: Mapping[int, bytes]) -> bytes:
    """A record, the rest of which may be in a chain of pages."""
    most = PAGE_BYTES - 35
    if size <= most:
        return page[at : at + size]
    least = (PAGE_BYTES - 12) * 32 // 255 - 23
    local = least + (size - least) % (PAGE_BYTES - 4)
    local = local if local <= most else least
    parts, have = [page[at : at + local]], local
    (following,) = struct.unpack_from(">I", page, at + local)
    while have < size:  # each turn adds a page, and size is bounded by what there is
        chained = pages[following]
        (following,) = struct.unpack_from(">I", chained)
        part = chained[4 : 4 + size - have]
        if not part:
            raise ValueError("the chain is cut off")
        parts.append(part)
        have += len(part)
    return b"".join(parts)


def _value(record: bytes, at: int, kind: int) -> tuple[object, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(record[at:end], "big", signed=True), end
    if kind < 12:
        raise ValueError("not a type that we write")
    end = at + (kind - 12) // 2
    if end > len(record):
        raise ValueError("longer than the row")
    raw = record[at:end]
    return (raw.decode() if kind % 2 else raw), end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """SQLite's integers of variable length: seven bits a byte, at most nine bytes."""
    value = 0
    for step in range(9):
        byte = data[at + step]
        if step == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + step + 1
    raise ValueError("no end")  # pragma: no cover - the ninth byte ends it
