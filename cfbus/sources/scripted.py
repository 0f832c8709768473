"""A source of made-up items without bytes, for benchmarks and simulation.

What it must not know: files, pictures. Its engine needs no picture, so every read is empty.
Invariant: item n is called ``item-<n, eight digits>`` whatever the shard size; a source with more
items lists the same ones first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from cfbus.sources.base import (
    DISK_READERS,
    Content,
    Item,
    Known,
    LeftOut,
    ListedShard,
    ReadError,
    ReadReason,
    label_of,
    shard_name,
)

LABEL = "scripted"


class ScriptedSource:
    def __init__(self, items: int, shard_items: int = 4096) -> None:
        self._items = items
        self._shard_items = shard_items
        self.left_out = LeftOut()
        self.readers = DISK_READERS

    def shards(self, known: Known) -> Iterator[ListedShard]:
        number = known.next_number(LABEL)
        names = (f"item-{n:08d}" for n in range(self._items))
        keys = names if number == 0 else (key for key in names if not known.contains(LABEL, key))
        while batch := list(islice(keys, self._shard_items)):
            yield ListedShard(shard_name(LABEL, number), batch, [b""] * len(batch))
            number += 1

    def read(self, shard: str, item: Item) -> Content:
        if label_of(shard) != LABEL:
            raise ReadError(ReadReason.SOURCE_MISSING, f"No source here has the shard {shard}.", "worker")
        return Content(b"")

    def out_of_reach(self) -> str:
        """See `Source.out_of_reach`."""
        return ""

    def close(self) -> None:
        """See `Source.close`: nothing is open."""
