"""The parts of an export: ranges of items in the order of the listing, each small enough for memory.

Reads the manifest, and nothing else of the store. Invariants: parts do not overlap and come in the order of
shards and items; each names all segments that hold anything of it; a part without captions is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from cfbus.exports.request import nearest_unknown
from cfbus.store import tombstones
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.store.view import share_a_slot, table_of

PART_ITEMS = 100_000


@dataclass(frozen=True)
class Part:
    """Items [start, end) of these shards; the range is of a single shard when it does not hold all of it."""

    number: int
    shards: tuple[ShardRow, ...]
    start: int
    end: int
    files: tuple[str, ...]

    @property
    def items(self) -> int:
        """How many items it spans."""
        return sum(min(shard.length, self.end) - self.start for shard in self.shards)


@dataclass(frozen=True)
class Stored:
    """What the manifest said at one moment."""

    store: Store
    position: int
    slots: tuple[str, ...]
    """Of all passes, in their order."""
    passes_meet: bool
    taken: str
    """A condition of SQL for the rows that tombstones take out; empty when there are none."""
    shards: tuple[ShardRow, ...]
    segments: tuple[tuple[str, ...], ...]
    """The files of each segment that hold captions."""
    ranges: npt.NDArray[np.int64]
    """Rows of segment, shard, start, end: where there may be captions."""

    @classmethod
    def read(cls, store: Store) -> Stored:
        """As it is now. Raises ``DamagedStoreError``."""
        with closing(Manifest.open(store)) as manifest:
            manifest.check_sizes(store)
            segments, passes, shards = manifest.segments(), manifest.passes(), manifest.shards()
            taken = tombstones.sql(tombstones.over(manifest.tombstones(), "captions"))
            done = manifest.done_of_segments()
        files = tuple(tuple(n for n in one.files if table_of(store, n) == "captions") for one in segments)
        parts = [
            np.column_stack((np.full(len(rows), number), rows[:, 1:]))
            for number, rows in enumerate(done[one.first] for one in segments)
        ]
        return cls(
            store,
            segments[-1].last if segments else 0,
            tuple(dict.fromkeys(slot for one in passes for slot in one.slots)),
            share_a_slot(passes),
            taken,
            tuple(shards),
            files,
            np.concatenate([np.empty((0, 4), np.int64), *parts]),
        )

    def chosen_shards(self, wanted: Sequence[str]) -> list[ShardRow]:
        """The shards that are asked for, all without a wish; a ``*`` stands for anything."""
        if not wanted:
            return list(self.shards)
        plain = [one for one in wanted if "*" not in one]
        nearest_unknown(plain, [shard.name for shard in self.shards], "shard")
        return [one for one in self.shards if any(_matches(one.name, pattern) for pattern in wanted)]

    def parts(self, wanted: Sequence[str], *, whole_shards: bool) -> Iterator[Part]:
        """The parts that may hold captions; with ``whole_shards`` each is a shard, whatever its size."""
        cut = _cut(self.chosen_shards(wanted), whole_shards=whole_shards)
        for number, (shards, start, end) in enumerate(cut):
            found = self._files_of(shards, start, end)
            if found:
                yield Part(number, shards, start, end, found)

    def _files_of(self, shards: Sequence[ShardRow], start: int, end: int) -> tuple[str, ...]:
        of = np.isin(self.ranges[:, 1], [shard.number for shard in shards])
        hit = self.ranges[of & (self.ranges[:, 2] < end) & (self.ranges[:, 3] > start)]
        names = (name for one in np.unique(hit[:, 0]) for name in self.segments[int(one)])
        return tuple(str(self.store.root / PurePosixPath(name)) for name in names)


def _cut(shards: Sequence[ShardRow], *, whole_shards: bool) -> Iterator[tuple[tuple[ShardRow, ...], int, int]]:
    waiting: list[ShardRow] = []
    for shard in shards:
        if waiting and (whole_shards or sum(one.length for one in waiting) + shard.length > PART_ITEMS):
            yield tuple(waiting), 0, max(one.length for one in waiting)
            waiting = []
        if whole_shards or shard.length <= PART_ITEMS:
            waiting.append(shard)
            continue
        for start in range(0, shard.length, PART_ITEMS):
            yield (shard,), start, min(start + PART_ITEMS, shard.length)
    if waiting:
        yield tuple(waiting), 0, max(one.length for one in waiting)


def _matches(name: str, pattern: str) -> bool:
    """Whether a name is as a pattern says, in which only ``*`` is special."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None
