"""Indexes beside remote tars: where the members lie, without a walk over the tar; none, where it cannot be believed.

What it is for: `indexed`, the members of a tar by its ``.idx`` (DALI's wds2idx) or ``.json`` (webshart).
What it must not know: samples, locators, how servers are asked.

An index may be older than its tar, or wrong. It is used only if it leaves no room for a member that it does not name:
one follows the other, and after the last comes only the tar's end mark. What it says of a member is compared with the
member's header when that is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from cfbus.sources.base import ReadError
from cfbus.sources.remote_files import RemoteFile, RemoteFiles
from cfbus.sources.tar_members import BLOCK, MAX_MEMBERS, Member

MAX_INDEX_BYTES: Final = 32 << 20
MAX_NAME: Final = 100
"""Longer names do not stand in the header before a member."""
_TAIL_BYTES: Final = 40 * BLOCK
"""The end mark, filled up to whole records of twenty blocks; some write two."""
_GAPS: Final = (BLOCK, 3 * BLOCK)
"""A header; or one with an extension before it, as long as a file of a block and its header: that is no picture."""
_TAR: Final = re.compile(r"\.tar$", re.IGNORECASE)


def indexed(files: RemoteFiles, address: str, tar: RemoteFile) -> list[Member] | None:
    """The members by an index beside the tar; None where there is none that can be used. The header of such a member
    is not known: its ``header_crc`` is 0."""
    if not _TAR.search(address) or "?" in address or tar.size <= len(tar.first):
        return None
    for suffix, start, parsed in ((".idx", b"v1.2 ", _dali), (".json", b"{", _webshart)):
        try:
            file = files.open(_TAR.sub(suffix, address), BLOCK)
            if file.size > MAX_INDEX_BYTES or not file.first.startswith(start):
                continue
            found = parsed(file.read(0, file.size), tar.size)
            if _leaves_no_room(found, tar):
                return found
        except (ReadError, ValueError, RecursionError):
            continue
    return None


def _dali(data: bytes, size: int) -> list[Member]:
    first, *lines = data.decode("ascii").splitlines()
    version, _, count = first.partition(" ")
    if version != "v1.2" or int(count) != len(lines):
        raise ValueError("no whole index")
    return [member for line in lines for member in _of_line(line.split(" "))]


def _of_line(words: Sequence[str]) -> Iterator[Member]:
    if len(words) % 4:
        raise ValueError("a name with a space in it")
    for _, offset, size, name in zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True):
        yield _member(name, int(offset), int(size))


def _webshart(data: bytes, size: int) -> list[Member]:
    said = json.loads(data)
    files = said.get("files") if isinstance(said, dict) else None
    if not isinstance(files, dict) or said.get("filesize") != size:
        raise ValueError("the index of another tar, or none")
    found = [_of_entry(name, entry) for name, entry in files.items()]
    return sorted(found, key=lambda member: member.offset)


def _of_entry(name: str, entry: object) -> Member:
    if not isinstance(entry, dict):
        raise ValueError("no entry")
    offset, size = entry.get("offset"), entry.get("length")
    if type(offset) is not int or type(size) is not int:
        raise ValueError("no whole entry")
    return _member(name, offset, size)


def _member(name: str, offset: int, size: int) -> Member:
    if len(name) > MAX_NAME:
        raise ValueError("a name that does not stand in the header")
    return Member(name.encode("ascii"), offset, size, 0, "")


def _leaves_no_room(found: Sequence[Member], tar: RemoteFile) -> bool:
    end = 0
    for member in found:
        if member.size < 0 or member.offset - end not in _GAPS:
            return False
        end = member.offset + -(-member.size // BLOCK) * BLOCK
    rest = tar.size - end
    if not found or len(found) > MAX_MEMBERS or not 2 * BLOCK <= rest <= _TAIL_BYTES:
        return False
    return not any(tar.read(end, rest))
