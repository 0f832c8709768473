"""The port of all sources: a source lists shards and reads items.

What it is for: the words that sources and those who call them share.
What it must not know: leases, passes, the bus, the store, pictures. A source hands out bytes.

Invariants:
- A shard, once listed, never changes: (shard, index) is an identity, the key is what people see.
- A later listing yields only keys that are not known yet, in new shards.
- The label in a shard's name says which root it came from: ``<label>-<number>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias

Fault: TypeAlias = Literal["item", "worker", "network"]


class ReadReason(StrEnum):
    """Why an item could not be read: stable words, kept in the failures table."""

    VANISHED = "vanished"
    UNREADABLE = "unreadable"
    OUTSIDE = "outside"
    TOO_LARGE = "too-large-file"
    SOURCE_MISSING = "source-missing"


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

    Keys are valid UTF-8, unique within their root, and only for people: a key is never a path.
    A locator is what `read` needs; it is empty where it equals ``key.encode()``.
    """

    name: str
    keys: list[str]
    locators: list[bytes]


@dataclass(frozen=True, slots=True)
class Item:
    index: int
    key: str
    locator: bytes


class Known(Protocol):
    """What is listed already, asked per label."""

    def next_number(self, label: str) -> int:
        """The number of the label's next shard; 0 when none is listed."""

    def contains(self, label: str, key: str) -> bool: ...


class NothingKnown:
    """The `Known` of a store without a listing."""

    def next_number(self, label: str) -> int:
        return 0

    def contains(self, label: str, key: str) -> bool:
        return False


class Source(Protocol):
    def shards(self, known: Known) -> Iterator[ListedShard]:
        """List what is not known yet. Raises SourceError."""

    def read(self, shard: str, item: Item) -> bytes:
        """The item's bytes. Raises ReadError and nothing else; safe to call from several threads."""


def shard_name(label: str, number: int) -> str:
    return f"{label}-{number:05d}"


def label_of(shard: str) -> str:
    """The label in a shard's name; empty when the name has no number."""
    label, _, number = shard.rpartition("-")
    return label if number.isascii() and number.isdigit() else ""
