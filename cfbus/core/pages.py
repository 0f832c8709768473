"""Splitting what is too much for one message into pages. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cfbus.bus.messages import Ranges

RANGE_BYTES = 11
"""A range in a header: two integers of up to five bytes, and the array around them."""
ENTRY_BYTES = 192
"""More than the bytes of any entry (of a COMMIT, ACK, RENEWED) without its ranges and reason."""

Entry = TypeVar("Entry")


def entry_bytes(ranges: Ranges, reason: str = "") -> int:
    """At most so many bytes an entry with these takes in a header."""
    return ENTRY_BYTES + RANGE_BYTES * len(ranges) + 4 * len(reason)


def pages(entries: Iterable[Entry], size: Callable[[Entry], int], limit: int) -> Iterator[list[Entry]]:
    """The entries in order, in groups of at most ``limit`` bytes; an entry that is larger is alone. At least one
    group, were it empty."""
    page: list[Entry] = []
    total = 0
    for entry in entries:
        own = size(entry)
        if page and total + own > limit:
            yield page
            page, total = [], 0
        page.append(entry)
        total += own
    yield page
