"""A disk and what a power cut may leave on it.

At any moment a file has its durable bytes and the writes that came after its last flush; a folder has its durable names
and the changes since. After a cut

- of a file's unflushed writes there is nothing; or all; or the first few, the last of these torn; or any of them
  without the others; or their length, with zeros in the place of the bytes;
- of the unflushed changes of names there is any subset. A rename happens wholly or not at all, and is durable only when
  the folder that it leads *to* is flushed.

A file's flush does not make its name durable, nor a folder's flush the folder itself: less than most file systems give.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, product

from crash.operations import (
    DataOperation,
    Flushed,
    Marked,
    Named,
    NameOperation,
    Operation,
    Renamed,
    Resized,
    Tree,
    Wrote,
)

Image = dict[str, bytes | None]
"""What lies on a disk: the bytes of each path, None for a folder."""
_EXHAUSTIVE = 12


@dataclass
class Disk:
    """What is durable, and what is not yet."""

    durable: Tree
    writes: dict[int, list[tuple[int, DataOperation]]] = field(default_factory=dict)
    names: list[tuple[int, NameOperation]] = field(default_factory=list)
    done: int = 0

    def apply(self, operation: Operation) -> None:
        """One more operation."""
        at, self.done = self.done, self.done + 1
        match operation:
            case Marked():
                pass
            case Wrote(node) | Resized(node):
                self.writes.setdefault(node, []).append((at, operation))
            case Flushed(node, began):
                self._flush(node, began)
            case _:
                if isinstance(operation, Named):
                    self.durable.files.setdefault(operation.node, b"")
                self.names.append((at, operation))

    def _flush(self, node: int, began: int) -> None:
        waiting = self.writes.pop(node, [])
        for _, write in (one for one in waiting if one[0] < began):
            self.durable.apply(write)
        later = [one for one in waiting if one[0] >= began]
        if later:
            self.writes[node] = later
        for at, change in list(self.names):
            if at < began and _leads_to(change) == node:
                self.durable.apply(change)
                self.names.remove((at, change))

    # ------------------------------------------------------------------ cuts

    def images(self, dice: random.Random, most: int) -> Iterator[Image]:
        """What a cut now may leave: all of it where that is little, else two extremes and samples; at most ``most``."""
        changes = [change for _, change in self.names]
        files = [node for node, waiting in self.writes.items() if waiting]
        modes = [list(_modes(self._writes_of(node), dice)) for node in files]
        combinations = 2 ** len(changes)
        for each in modes:
            combinations *= len(each)
        if combinations <= min(most, _EXHAUSTIVE):
            for kept in product((False, True), repeat=len(changes)):
                for chosen in product(*modes):
                    yield self._image(changes, kept, dict(zip(files, chosen, strict=True)))
            return
        yield from islice(self._samples(changes, files, modes, dice), most)

    def _samples(
        self, changes: Sequence[NameOperation], files: Sequence[int], modes: Sequence[list[list[DataOperation]]],
        dice: random.Random,
    ) -> Iterator[Image]:  # fmt: skip
        for whole in (False, True):
            writes = {node: self._writes_of(node) if whole else [] for node in files}
            yield self._image(changes, [whole] * len(changes), writes)
        while True:
            bias = dice.choice((0.1, 0.5, 0.9))
            kept = [dice.random() < bias for _ in changes]
            yield self._image(changes, kept, {node: dice.choice(each) for node, each in zip(files, modes, strict=True)})

    def _writes_of(self, node: int) -> list[DataOperation]:
        return [write for _, write in self.writes[node]]

    def _image(
        self, changes: Sequence[NameOperation], kept: Sequence[bool], writes: dict[int, list[DataOperation]]
    ) -> Image:
        tree = Tree({node: dict(names) for node, names in self.durable.names.items()}, dict(self.durable.files))
        for change, keep in zip(changes, kept, strict=True):
            if keep:
                tree.apply(change)
            elif isinstance(change, Named) and change.is_folder:
                tree.names.setdefault(change.node, {})
        for survive in writes.values():
            for write in survive:
                tree.apply(write)
        return tree.content()


def _leads_to(change: NameOperation) -> int:
    return change.to_folder if isinstance(change, Renamed) else change.folder


def _modes(writes: Sequence[DataOperation], dice: random.Random) -> Iterator[list[DataOperation]]:
    """Ways in which unflushed writes survive."""
    yield []
    yield list(writes)
    yield [_zeros(write) for write in writes]
    at = dice.randrange(len(writes))
    yield [*writes[:at], *_torn(writes[at], dice)]
    if len(writes) > 1:
        yield list(writes[: dice.randrange(1, len(writes))])
        yield [write for write in writes if dice.random() < 0.5]


def _zeros(write: DataOperation) -> DataOperation:
    return Wrote(write.node, write.offset, bytes(len(write.data))) if isinstance(write, Wrote) else write


def _torn(write: DataOperation, dice: random.Random) -> list[DataOperation]:
    """The first part of it, as often as not to the end of a sector."""
    if not isinstance(write, Wrote) or len(write.data) < 2:
        return []
    length = dice.randrange(1, len(write.data))
    if dice.random() < 0.5:
        length -= (write.offset + length) % 512
    return [Wrote(write.node, write.offset, write.data[:length])] if length > 0 else []
