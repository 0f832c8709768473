"""Where an item of a dataset lies: a row of a row group of one table, or a picture; in bytes that travel.

What it is for: a worker reads exactly what was listed, or learns that it changed.
What it must not know: files, the hub.

Invariant: `unpack` takes what anybody may have made, and raises nothing but ValueError.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from cfbus.sources.list_locators import RowLocator
from cfbus.sources.table_files import Identity

_ROW: Final = struct.Struct("<IIQI")
_ORIGIN: Final = struct.Struct("<20sI")
_TABLE, _PICTURE = b"t", b"p"


@dataclass(frozen=True, slots=True)
class Origin:
    """The commit of the hub that was listed, and the checksum of how the revision was called; nothing for a disk."""

    commit: str = ""
    called: int = 0

    @classmethod
    def of(cls, commit: str, revision: str) -> Origin:
        """A revision's commit."""
        return cls(commit, zlib.crc32(revision.encode()))

    def is_of(self, revision: str) -> bool:
        """Whether it was called so when it was listed."""
        return bool(self.commit) and self.called == zlib.crc32(revision.encode())

    def pack(self) -> bytes:
        """As bytes."""
        return _ORIGIN.pack(bytes.fromhex(self.commit), self.called) if self.commit else b""

    @classmethod
    def unpack(cls, packed: bytes) -> Origin:
        """From bytes. Raises ValueError."""
        if not packed:
            return cls()
        if len(packed) != _ORIGIN.size:
            raise ValueError("no commit")
        commit, called = _ORIGIN.unpack(packed)
        return cls(commit.hex(), called)


@dataclass(frozen=True, slots=True)
class TableRow:
    """Row ``row`` of row group ``group`` in the table of this identity."""

    group: int
    row: int
    table: Identity
    origin: Origin

    def pack(self) -> bytes:
        """As bytes."""
        row = _ROW.pack(self.group, self.row, self.table.size, self.table.footer_crc)
        return _TABLE + row + self.origin.pack()


@dataclass(frozen=True, slots=True)
class PictureAt:
    """A picture by its path in the dataset, with its columns."""

    place: RowLocator
    origin: Origin

    def pack(self) -> bytes:
        """As bytes."""
        origin = self.origin.pack()
        return _PICTURE + bytes([len(origin)]) + origin + self.place.pack()


def unpack(packed: bytes) -> TableRow | PictureAt:
    """What a locator says. Raises ValueError."""
    kind, rest = packed[:1], packed[1:]
    if kind == _TABLE and len(rest) >= _ROW.size:
        group, row, size, crc = _ROW.unpack_from(rest)
        if size >= 1 << 62:
            raise ValueError("a table beyond any disk")
        return TableRow(group, row, Identity(size, crc), Origin.unpack(rest[_ROW.size :]))
    if kind == _PICTURE and rest:
        length = rest[0]
        return PictureAt(RowLocator.unpack(rest[1 + length :]), Origin.unpack(rest[1 : 1 + length]))
    raise ValueError("no locator of a dataset's item")
