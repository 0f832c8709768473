"""The port of all sources: a source lists shards and reads items.

What it is for: the words that sources and those who call them share.
What it must not know: leases, passes, the bus, the store, pictures. A source hands out bytes.

Invariants:
- A shard, once listed, never changes: (shard, index) is an identity, the key is what people see.
- A later listing yields only what is not known yet, in new shards.
- What a listing passes over is counted and told, never just missing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias, runtime_checkable

LEFT_OUT_KEPT = 1000
DISK_READERS = 4
_HTTP_STATUS = re.compile(r"http-[1-9][0-9]{2}")

Fault: TypeAlias = Literal["item", "worker", "network"]


class ReadReason(StrEnum):
    """Why an item could not be read: stable words, kept in the failures table."""

    VANISHED = "vanished"
    UNREADABLE = "unreadable"
    OUTSIDE = "outside"
    TOO_LARGE = "too-large-file"
    SOURCE_MISSING = "source-missing"
    CHANGED = "changed"
    DOUBLED = "doubled"
    MISSING_COLUMN = "missing-column"
    BAD_COLUMN = "bad-column"
    BAD_ROW = "bad-row"
    BAD_URL = "bad-url"
    NO_SUCH_HOST = "no-such-host"
    DNS_FAILED = "dns-failed"
    PRIVATE_ADDRESS = "private-address"
    CERTIFICATE = "certificate"
    CONNECTION_FAILED = "connection-failed"
    NO_ANSWER = "no-answer"
    TOO_SLOW = "too-slow"
    BAD_ANSWER = "bad-answer"
    REDIRECTS = "too-many-redirects"
    NOAI = "noai"
    NOT_AN_IMAGE = "not-an-image"
    NO_IMAGE = "no-image"

    @classmethod
    def _missing_(cls, value: object) -> ReadReason | None:
        """``http-404`` and its like: what a server answered, with any three digits."""
        if not isinstance(value, str) or not _HTTP_STATUS.fullmatch(value):
            return None
        reason = str.__new__(cls, value)
        reason._name_, reason._value_ = value.upper().replace("-", "_"), value
        return cls._value2member_map_.setdefault(value, reason)  # type: ignore[return-value]


class ReadError(Exception):
    """An item could not be read; `detail` is one sentence, `fault` says who is to blame.

    "item": nobody will read it. "worker": another host may. "network": try again.
    """

    def __init__(self, reason: ReadReason, detail: str, fault: Fault) -> None:
        super().__init__(reason, detail, fault)  # all in args: that is what survives pickling
        self.reason = reason
        self.detail = detail
        self.fault: Fault = fault

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ListedShard:
    """One shard as listed: `keys` and `locators` have the same length and order.

    Keys are valid UTF-8 and only for people: a key is never a path.
    A locator is what `read` needs; it is empty where it equals ``key.encode()``.
    Where items are cheapest read in groups, as the row groups of parquet are, `group_ends` says how many items
    there are up to the end of each, ascending.
    """

    name: str
    keys: list[str]
    locators: list[bytes]
    group_ends: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Item:
    index: int
    key: str
    locator: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """What a source has of an item: the bytes of its image, and its columns as JSON has them."""

    data: bytes
    columns: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeftOutThing:
    """Something that a listing passed over, as a person should hear it. ``grave``: it may hold images."""

    path: str
    reason: str
    grave: bool


class LeftOut:
    """What a listing passed over: the first thousand grave things, the first thousand others, and how many in all."""

    def __init__(self) -> None:
        self.things: list[LeftOutThing] = []
        self.count = 0
        self.grave = 0

    def add(self, path: str, reason: str, *, grave: bool = False) -> None:
        """One more."""
        self.count += 1
        self.grave += grave
        if (self.grave if grave else self.count - self.grave) <= LEFT_OUT_KEPT:
            self.things.append(LeftOutThing(path, reason, grave))


class Known(Protocol):
    """What is listed already: by label for sources that number their shards, by name for those that do not."""

    def lists(self, shard: str) -> bool:
        """Whether there is a shard of this name."""

    def next_number(self, label: str) -> int:
        """The number of the label's next shard; 0 when none is listed."""

    def contains(self, label: str, key: str) -> bool: ...

    def end(self, label: str) -> tuple[int, bytes]:
        """How many items the label's shards have together, and the locator of the last; 0 and nothing for none."""

    def first(self, start: str) -> bytes:
        """The locator of the first item of a shard whose name starts so; nothing where none does."""


class NothingKnown:
    """The `Known` of a store without a listing."""

    def lists(self, shard: str) -> bool:
        return False

    def next_number(self, label: str) -> int:
        return 0

    def contains(self, label: str, key: str) -> bool:
        return False

    def end(self, label: str) -> tuple[int, bytes]:
        return 0, b""

    def first(self, start: str) -> bytes:
        return b""


@runtime_checkable
class ColumnsApart(Protocol):
    """A source that knows an item's columns without reading its image."""

    def columns(self, item: Item) -> Mapping[str, object]:
        """The item's columns. Raises ReadError."""


class Source(Protocol):
    @property
    def left_out(self) -> LeftOut:
        """What the listing that runs, or ran last, passed over."""

    def shards(self, known: Known) -> Iterator[ListedShard]:
        """List what is not known yet. Raises SourceError."""

    def read(self, shard: str, item: Item) -> Content:
        """The item's image and columns. Raises ReadError and nothing else; safe to call from several threads."""

    def out_of_reach(self) -> str:
        """Why this host cannot read the source, as a sentence; empty when it can. Looks, and lists nothing."""

    @property
    def readers(self) -> int:
        """How many calls of `read` at once make sense: few for a disk, many where an answer is waited for."""

    def close(self) -> None:
        """Let go of open files."""


def shard_name(label: str, number: int) -> str:
    """The name of a shard that has no container of its own: which root it came from, and its number."""
    return f"{label}-{number:05d}"


def label_of(shard: str) -> str:
    """The label in a shard's name; empty when the name has no number."""
    label, _, number = shard.rpartition("-")
    return label if number.isascii() and number.isdigit() else ""


def shown(path: bytes) -> str:
    """A path for people: what is not UTF-8 in it as ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def key_of(path: bytes) -> str:
    """The key of a path. One that is not UTF-8 becomes ``./`` and the path with ``\\`` doubled and odd bytes as
    ``\\xNN``, so that it can be told from every plain one."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return "./" + shown(path.replace(b"\\", b"\\\\"))


def free_label(name: str, taken: Collection[str]) -> str:
    """A label of ``A-Z a-z 0-9 . _ -`` for a root of this name; with ``.2``, ``.3`` … when an earlier root has it."""
    base = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100] or "root"
    label, copy = base, 1
    while label in taken:
        copy += 1
        label = f"{base}.{copy}"
    return label
