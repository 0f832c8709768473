"""The workload ``applied``: compactions take rows away for good that tombstones took out, and rows that redos replaced;
processes end in the middle of it.

python drive_applied.py ROOT
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from crash.amended import REDONE, requeue, revoke, take_down
from crash.rig import STORE, Mark, WriterRig, in_turn, marker
from crash.sample import PARTS
from crash.strace import marks_of

from cfbus.store import compaction
from cfbus.store.compaction import compact
from cfbus.store.folder import Store

HOUR = 3_600_000_000
TWO_OR_THREE = 50_000
"""So many bytes have two or three of the segments together."""


def _compact(root: Path, now: int, keep: int) -> None:
    compact(Store.peek(root / STORE), now, keep)


def begin(root: Path, mark: Mark) -> None:
    """Segments of somebody and of others, a redo, and a tombstone over all of somebody's, with its redo."""
    writer = WriterRig(root, mark)
    writer.list_shards(2)
    writer.open_passes(2)
    for parts in (PARTS[:3], PARTS[3:6], PARTS[6:9], PARTS[9:]):
        writer.take(*parts)
        writer.seal_all()
    requeue(writer)
    writer.take(REDONE[0])
    writer.seal_all()
    revoke(writer)
    writer.take(*REDONE[1:3])
    writer.seal_all()
    writer.close()


def die_before_the_swap(root: Path, mark: Mark) -> None:
    """The new file has its name, and the manifest knows it for spare only."""

    def die(*_: object) -> None:
        os._exit(0)

    compaction.merge_ranges = die  # type: ignore[assignment,attr-defined]
    _compact(root, 1, HOUR)


def die_between_two(root: Path, mark: Mark) -> None:
    """The tombstone was applied to one group of segments; others have rows of it."""

    def die(_: int, groups: int) -> None:
        os._exit(0 if groups > 1 else 70)

    compact(Store.peek(root / STORE), 2, HOUR, large=TWO_OR_THREE, on_group=die)


def beside_a_writer(root: Path, mark: Mark) -> None:
    """In a process of its own, while the writer has the manifest open; then another tombstone, and that is applied."""
    writer = WriterRig(root, mark)
    writer.take(REDONE[3])
    command = [sys.executable, "-P", "-m", "cfbus.tools.main", "compact", str(root / STORE), "--keep-hours", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    mark({"applied": 1})
    take_down(writer)
    writer.seal_all()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    mark({"applied": 2})
    writer.take(REDONE[4])


def end(root: Path, mark: Mark) -> None:
    """The rest, all that came before once more, and all of it joined."""
    writer = WriterRig(root, mark)
    writer.seal_all()
    writer.take(*PARTS, *REDONE)
    writer.close()
    _compact(root, 3 + HOUR, HOUR)


PHASES = (begin, die_before_the_swap, die_between_two, beside_a_writer, end)

if __name__ == "__main__":
    in_turn(PHASES, Path(sys.argv[1]), marker(marks_of(Path(sys.argv[1]))))
