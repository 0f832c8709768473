"""The writer's state in pages, as a broker is told it. Pure.

Invariant: no page is larger than a frame or a header may be, whatever the store holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import MAX_PASSES, RESULT_SPLIT_BYTES
from cfbus.bus.fields import PAGE_BYTES as HEADER_PAGE_BYTES
from cfbus.bus.wire import encode_table
from cfbus.core.pages import pages

PASS_BYTES = 96
SHARD_ROW_BYTES = 16
DONE_ROW_BYTES = 28
PAGE_BYTES = RESULT_SPLIT_BYTES

DoneRow = tuple[int, int, int, int]
"""Pass, shard, start, end."""


@dataclass(frozen=True, slots=True)
class StatePage:
    """The payload of one STATE, and what its header says of it."""

    table: Literal["shards", "selected", "done"]
    first: int
    payload: bytes
    passes: tuple[m.PassFacts, ...] = ()

    def message(self, position: int, number: int | None = None, *, last: bool = False) -> m.State:
        """The STATE: page ``number`` of an answer to SINCE, or news (None)."""
        return m.State(
            table=self.table,
            first=self.first,
            position=position,
            passes=self.passes,
            snapshot=number is not None,
            page=number or 0,
            last=last,
        )


def pass_pages(first: int, passes: Iterable[m.PassFacts]) -> list[StatePage]:
    """These passes; ``first`` is a number of shards that the broker knows."""
    empty = encode_table(build("shards", 0, {"name": [], "length": []}))
    groups = pages(passes, _pass_bytes, HEADER_PAGE_BYTES)
    return [StatePage("shards", first, empty, tuple(group)) for group in groups if group]


def _pass_bytes(facts: m.PassFacts) -> int:
    texts = [*facts.slots, *(text for override in facts.overrides for text in override)]
    return max(sum(len(text.encode()) + 4 for text in texts) + PASS_BYTES, HEADER_PAGE_BYTES // MAX_PASSES)


def shard_pages(first: int, names: Sequence[str], lengths: Sequence[int]) -> list[StatePage]:
    """The shards from number ``first`` on."""
    told = []
    shards = zip(names[first:], lengths[first:], strict=True)
    for page in pages(shards, lambda shard: SHARD_ROW_BYTES + len(shard[0].encode()), PAGE_BYTES):
        table = build("shards", len(page), {"name": [name for name, _ in page], "length": [size for _, size in page]})
        told.append(StatePage("shards", first, encode_table(table)))
        first += len(page)
    return told


def selected_pages(rows: Iterable[DoneRow]) -> list[StatePage]:
    """What redos are over."""
    return _range_pages("selected", rows)


def done_pages(rows: Iterable[DoneRow]) -> list[StatePage]:
    """All that is done; at least one page."""
    return _range_pages("done", rows)


def _range_pages(kind: Literal["selected", "done"], rows: Iterable[DoneRow]) -> list[StatePage]:
    told: list[StatePage] = []
    first = 0
    for page in pages(rows, lambda _: DONE_ROW_BYTES, PAGE_BYTES):
        names = ("pass_number", "shard", "start", "end")
        columns = {name: [row[at] for row in page] for at, name in enumerate(names)}
        told.append(StatePage(kind, first, encode_table(build(kind, len(page), columns))))
        first += len(page)
    return told
