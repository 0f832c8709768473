"""Power cuts while the product recovers: from an earlier cut, and from a kill.

After a cut all that is there is durable. After a kill it is not: what a process had written and not flushed is still
there for the next one to see, and a power cut can still take it away.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from crash.cuts import Cut, Facts, cuts
from crash.operations import Flushed, Named, Operation, Renamed, Wrote
from crash.strace import Recording, record

COMMAND = [sys.executable, str(Path(__file__).with_name("drive_recovery.py"))]


def after_cuts(chosen: Sequence[Cut], folder: Path, environment: dict[str, str], samples: int) -> list[Cut]:
    """Cuts in the recovery from other cuts."""
    roots = [folder / f"cut-{number}" for number in range(len(chosen))]
    for cut, root in zip(chosen, roots, strict=True):
        cut.lay_out(root)
    recordings = record([*COMMAND, *map(str, roots)], roots, folder / "cuts.log", environment)
    found = []
    for number, (cut, recording) in enumerate(zip(chosen, recordings, strict=True)):
        before = cut.known.copy()
        before.sent = set(cut.sent)
        found += cuts(recording, number, samples, before=before)
    return found


def after_kills(
    recording: Recording, points: Sequence[int], folder: Path, environment: dict[str, str], samples: int
) -> list[Cut]:
    """Cuts in the recovery from kills after some operations of a workload."""
    roots = [folder / f"kill-{point}" for point in points]
    trees = [Recording(recording.start, recording.operations[:point]).end() for point in points]
    for tree, root in zip(trees, roots, strict=True):
        Cut(tree.content(), 0, 0, Facts(), set()).lay_out(root)
    found = []
    recordings = record([*COMMAND, *map(str, roots)], roots, folder / "kills.log", environment, trees)
    for point, went_on in zip(points, recordings, strict=True):
        before = recording.operations[:point]
        whole = Recording(recording.start, [*before, *(_later(one, point) for one in went_on.operations)])
        found += cuts(whole, point, samples, after=point)
    return found


def _later(operation: Operation, by: int) -> Operation:
    return dataclasses.replace(operation, began=operation.began + by) if isinstance(operation, Flushed) else operation


def kill_points(recording: Recording, count: int, seed: int, only: str = "") -> list[int]:
    """Moments at which something is done and about to be flushed: of each file one before a second of any, or of
    those whose name begins so."""
    names = {one.node: one.name for one in recording.operations if isinstance(one, Named)}
    by_file: dict[str, list[int]] = {}
    for point, (one, following) in enumerate(zip(recording.operations, recording.operations[1:], strict=False), 1):
        if isinstance(one, Wrote | Named | Renamed) and isinstance(following, Flushed):
            by_file.setdefault(names.get(one.node, ""), []).append(point)
    dice = random.Random(seed)
    for points in by_file.values():
        dice.shuffle(points)
    names_of_files = sorted(by_file, key=lambda name: (-len(by_file[name]), name))
    rounds = zip_longest(*(by_file[name] for name in names_of_files if name.startswith(only)))
    return sorted([point for each in rounds for point in each if point is not None][:count])
