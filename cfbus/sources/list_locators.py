"""What a listing keeps of a list's row: its address and its columns, or why it has none; in bytes that travel.

What it is for: a worker that has only the bus can download an item, and fill the columns into prompts.
What it must not know: files, HTTP.

The last locator of a shard also holds the checksum of all rows of the list up to it, so that a list whose listed part
was changed is noticed.

Invariant: a locator has at most `MAX_LOCATOR_BYTES`; columns that do not fit are left out whole, the largest first.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cfbus.sources.base import ReadReason
from cfbus.sources.columns import MAX_URL_BYTES

MAX_COLUMNS_BYTES: Final = 2048
MAX_LOCATOR_BYTES: Final = MAX_URL_BYTES + MAX_COLUMNS_BYTES + 64
_WHOLE, _BROKEN, _END = b"w", b"b", b"\0"
_CHECKSUM: Final = re.compile(rb"([0-9a-f]{8})?")


@dataclass(frozen=True, slots=True)
class RowLocator:
    """An item's address and columns, or what is wrong with it (then ``url`` is empty)."""

    url: str = ""
    columns: Mapping[str, object] = field(default_factory=dict)
    reason: ReadReason | None = None
    detail: str = ""

    def pack(self) -> bytes:
        """As bytes, without a checksum."""
        if self.reason is not None:
            return _END.join([_BROKEN, self.reason.encode(), self.detail.encode("utf-8", "replace"), b""])
        return _END.join([_WHOLE, self.url.encode(), _columns(self.columns), b""])

    @classmethod
    def unpack(cls, packed: bytes) -> RowLocator:
        """From bytes that anybody may have made. Raises ValueError."""
        if len(packed) > MAX_LOCATOR_BYTES:
            raise ValueError("too long")
        kind, first, second, checksum = packed.split(_END)
        if kind not in (_WHOLE, _BROKEN) or not _CHECKSUM.fullmatch(checksum):
            raise ValueError("not the locator of a list's row")
        if kind == _BROKEN:
            return cls(reason=ReadReason(first.decode()), detail=second.decode())
        try:
            columns = json.loads(second) if second else {}
        except RecursionError:
            raise ValueError("columns without end") from None
        if not isinstance(columns, dict):
            raise ValueError("columns that are none")
        return cls(first.decode(), columns)


def _columns(columns: Mapping[str, object]) -> bytes:
    if not columns:
        return b""
    whole = _json(columns)
    if len(whole) <= MAX_COLUMNS_BYTES:
        return whole
    sizes = {name: len(_json({name: value})) for name, value in columns.items()}
    while sum(sizes.values()) > MAX_COLUMNS_BYTES:
        del sizes[max(sizes, key=sizes.__getitem__)]
    return _json({name: columns[name] for name in sizes}) if sizes else b""


def _json(columns: Mapping[str, object]) -> bytes:
    return json.dumps(columns, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def chained(checksum: int, url: str) -> int:
    """The checksum of one row more."""
    return zlib.crc32(url.encode("utf-8", "replace") + b"\n", checksum)


def with_checksum(packed: bytes, checksum: int) -> bytes:
    """A shard's last locator."""
    return packed + b"%08x" % checksum


def checksum_in(packed: bytes) -> int | None:
    """The checksum in a shard's last locator; None where there is none."""
    found = packed.rpartition(_END)[2]
    return int(found, 16) if found and _CHECKSUM.fullmatch(found) else None
