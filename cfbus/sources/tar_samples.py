"""Members of a tar become items: grouped by name as webdataset groups them, each with a locator.

What it is for: `samples` groups, `Locator` says where an item's members lie, in bytes that travel.
What it must not know: files, how members are read, pictures beyond their names.

The grouping is that of the webdataset library: a name splits at the first dot of its last part into key and suffix,
neighbours with the same key are one sample, names without a key and ``__meta__`` names do not count. Where the
library would raise (two members of one name in a sample) or would drop what looks like a picture (a link, a device),
the item is listed as *broken*, so that it becomes a dead letter with its reason and its neighbours stay whole.

Only what is used is located: the image and the members that are columns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cfbus.sources.base import ReadReason, key_of
from cfbus.sources.suffixes import is_column, is_picture
from cfbus.sources.tar_members import Member

MAX_KEY_BYTES: Final = 1024
MAX_SUFFIX_BYTES: Final = 128
MAX_COLUMN_MEMBERS: Final = 32
_NAME: Final = re.compile(rb"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META: Final = re.compile(rb"__[^/]*__($|/)")
_PART: Final = struct.Struct("<QQIB")
_WHOLE, _STAMPED, _INDEXED, _BROKEN = b"w", b"s", b"i", b"b"
STAMP_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Part:
    """Where one member lies: ``size`` bytes from ``offset`` on, behind a header block with this CRC-32."""

    suffix: str
    offset: int
    size: int
    header_crc: int


@dataclass(frozen=True, slots=True)
class Locator:
    """An item's image and columns, or what is wrong with it (then there are no parts).

    ``stamp`` says which version of the tar this is about, in eight bytes; empty where it does not say. One that is
    ``indexed`` comes from an index beside the tar: its headers' CRCs are not known."""

    parts: tuple[Part, ...] = ()
    reason: ReadReason | None = None
    detail: str = ""
    stamp: bytes = b""
    indexed: bool = False

    def pack(self) -> bytes:
        """As bytes."""
        if self.reason is not None:
            return b"\0".join([_BROKEN + self.reason.encode(), self.detail.encode()])
        packed = [(_INDEXED if self.indexed else _STAMPED) + self.stamp if self.stamp else _WHOLE]
        for part in self.parts:
            name = part.suffix.encode()
            packed += [_PART.pack(part.offset, part.size, part.header_crc, len(name)), name]
        return b"".join(packed)

    @classmethod
    def unpack(cls, packed: bytes) -> Locator:
        """From bytes that anybody may have made. Raises ValueError."""
        if packed[:1] == _BROKEN:
            reason, _, detail = packed[1:].partition(b"\0")
            return cls((), ReadReason(reason.decode()), detail.decode())
        if packed[:1] not in (_WHOLE, _STAMPED, _INDEXED):
            raise ValueError("no locator of a tar's item")
        parts: list[Part] = []
        at = 1 + (0 if packed[:1] == _WHOLE else STAMP_BYTES)
        stamp = packed[1:at]
        while at < len(packed):
            if len(parts) > MAX_COLUMN_MEMBERS or at + _PART.size > len(packed):
                raise ValueError("a locator that is cut off or too long")
            offset, size, crc, length = _PART.unpack_from(packed, at)
            if offset >= 1 << 62:
                raise ValueError("a locator beyond any file")
            at += _PART.size + length
            parts.append(Part(packed[at - length : at].decode(), offset, size, crc))
        if not parts:
            raise ValueError("a locator without an image")
        return cls(tuple(parts), stamp=stamp, indexed=packed[:1] == _INDEXED)


@dataclass(slots=True)
class _Group:
    """Members with one key, as they come."""

    name: bytes
    seen: set[bytes] = field(default_factory=set)
    images: list[tuple[bytes, Member]] = field(default_factory=list)
    columns: list[tuple[bytes, Member]] = field(default_factory=list)
    doubled: bytes = b""
    odd: str = ""

    def add(self, name: bytes, member: Member) -> None:
        """One more member, by its suffix without the first dot."""
        dotted = b"x." + name
        if member.kind:
            if is_picture(dotted):
                self.odd = self.odd or f"It is {member.kind} in the tar, not a file."
            return
        if name in self.seen:
            self.doubled = self.doubled or name
        self.seen.add(name)
        if is_picture(dotted):
            self.images.append((name, member))
        elif is_column(dotted) and len(name) <= MAX_SUFFIX_BYTES and len(self.columns) < MAX_COLUMN_MEMBERS:
            self.columns.append((name, member))


@dataclass(slots=True)
class Sampling:
    """Groups members. ``image`` names the suffix of the image (``jpg``, ``input.png``; several with ``;``); without
    it the first member with a picture's suffix is taken, one without a second dot before the others. After the walk,
    ``without_image`` counts the samples that have none, ``nameless`` the members that belong to no sample."""

    image: str = ""
    without_image: int = 0
    nameless: int = 0

    def samples(self, members: Iterable[Member]) -> Iterator[tuple[str, Locator]]:
        """Key and locator of each sample that has an image, or should have."""
        group: _Group | None = None
        for member in members:
            match = _NAME.match(member.name)
            if match is None or _META.match(member.name):
                self.nameless += not member.kind
                continue
            if group is None or group.name != match[1]:
                if group is not None:
                    yield from self._item(group)
                group = _Group(match[1])
            group.add(match[2].lower(), member)
        if group is not None:
            yield from self._item(group)

    def _item(self, group: _Group) -> Iterator[tuple[str, Locator]]:
        image = self._image(group)
        if image is None and not group.odd:
            self.without_image += 1
            return
        yield _key(group.name), self._locator(group, image)

    def _image(self, group: _Group) -> tuple[bytes, Member] | None:
        if self.image:
            by_suffix = dict(reversed(group.images))
            wanted = (name.strip().lstrip(".").lower().encode() for name in self.image.split(";"))
            return next(((name, by_suffix[name]) for name in wanted if name in by_suffix), None)
        plain = (each for each in group.images if b"." not in each[0])
        return next(plain, None) or next(iter(group.images), None)

    def _locator(self, group: _Group, image: tuple[bytes, Member] | None) -> Locator:
        steps = group.name.split(b"/")
        if b".." in steps or group.name.startswith(b"/"):
            return Locator((), ReadReason.OUTSIDE, "Its name in the tar leads out of it.")
        if len(group.name) > MAX_KEY_BYTES:
            return Locator((), ReadReason.OUTSIDE, f"Its name in the tar has more than {MAX_KEY_BYTES} bytes.")
        if group.doubled:
            name = group.doubled[:MAX_SUFFIX_BYTES].decode("utf-8", "backslashreplace")
            return Locator((), ReadReason.DOUBLED, f"Two members of the tar have its name, both with .{name}.")
        if image is None or len(image[0]) > MAX_SUFFIX_BYTES:
            return Locator((), ReadReason.UNREADABLE, group.odd or "The suffix of its image is too long.")
        return Locator(tuple(_part(*each) for each in (image, *group.columns)))


def _part(name: bytes, member: Member) -> Part:
    return Part(name.decode("utf-8", "backslashreplace"), member.offset, member.size, member.header_crc)


def _key(name: bytes) -> str:
    if len(name) <= MAX_KEY_BYTES:
        return key_of(name)
    return key_of(name[:MAX_KEY_BYTES].decode("utf-8", "ignore").encode()) + "…"
