"""All images of a recording: what a power cut may leave at every point of it, each only once.

The same disk may be left by cuts at several points. What was acknowledged before the last of these has to be on it, and
nothing may be on it that was sent only after the first of them.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crash.disk import Disk, Image
from crash.operations import Marked, Tree
from crash.strace import Recording

SAMPLES = 8
"""So many images of a cut with many outcomes."""


@dataclass
class Facts:
    """What a workload has said up to some moment."""

    sent: set[int] = field(default_factory=set)
    acked: dict[int, int] = field(default_factory=dict)
    shards: int = 0
    passes: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    done: set[tuple[int, int, int]] = field(default_factory=set)
    position: int = 0
    amended: int = 0
    """How many tombstones were told of, with the redos that make them good."""
    applied: int = 0
    """Of how many of them it was told that no file has their rows any more."""

    def hear(self, text: str) -> None:
        """One more mark."""
        mark = json.loads(text)
        if "sent" in mark:
            self.sent.add(mark["sent"])
        elif "acked" in mark:
            self.acked[mark["acked"]] = self.acked.get(mark["acked"], 0) or mark["position"]
        elif "key" in mark and self.keys.get(mark["key"]) != "revoked":  # that is for good
            self.keys[mark["key"]] = mark["state"]
        for number, shard, ranges in mark.get("done", ()):
            self.done.update((number, shard, index) for start, end in ranges for index in range(start, end))
        self.position = max(self.position, mark.get("ends", 0))
        self.shards = max(self.shards, mark.get("shards", 0))
        self.passes = max(self.passes, mark.get("passes", 0))
        self.amended = max(self.amended, mark.get("amended", 0))
        self.applied = max(self.applied, mark.get("applied", 0))

    def copy(self) -> Facts:
        """As it is now."""
        return copy.deepcopy(self)


@dataclass
class Cut:
    """An image, the points after which the power may have gone, and what was said at the last and the first."""

    image: Image
    first: int
    last: int
    known: Facts
    sent: set[int]

    def lay_out(self, root: Path) -> None:
        """Make the image a folder."""
        root.mkdir()
        for path, content in sorted(self.image.items()):
            if content is None:
                (root / path).mkdir()
            else:
                (root / path).write_bytes(content)
                if path.endswith("registry.sqlite"):
                    (root / path).chmod(0o600)


def cuts(
    recording: Recording, seed: int, samples: int = SAMPLES, *, before: Facts | None = None, after: int = 0
) -> list[Cut]:
    """Every cut of a recording that began on a disk where all was durable, with distinct images; only those after an
    operation."""
    found: dict[tuple[tuple[str, int], ...], Cut] = {}
    facts = before.copy() if before else Facts()
    for point, disk in _moments(recording):
        operation = recording.operations[point - 1] if point else None
        if isinstance(operation, Marked):
            facts.hear(operation.text)
            if "sent" in operation.text:
                continue
        if point < after:
            continue
        for image in disk.images(random.Random(f"{seed} {point}"), samples):
            name = _name(image)
            if name in found:
                found[name].last, found[name].known = point, facts.copy()
            else:
                found[name] = Cut(image, point, point, facts.copy(), set(facts.sent))
    return list(found.values())


def _moments(recording: Recording) -> Iterator[tuple[int, Disk]]:
    start = recording.start
    disk = Disk(Tree({node: dict(names) for node, names in start.names.items()}, dict(start.files), start.newest))
    yield 0, disk
    for point, operation in enumerate(recording.operations, 1):
        disk.apply(operation)
        yield point, disk


def _name(image: Image) -> tuple[tuple[str, int], ...]:
    """What tells images apart. Python keeps the hash of bytes, and most images share most of theirs."""
    return tuple(sorted((path, hash(content)) for path, content in image.items()))
