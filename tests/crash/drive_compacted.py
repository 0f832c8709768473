"""The workload ``compacted``: segments are joined alone, beside a writer, with processes that end in the middle of it.

python drive_compacted.py ROOT
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from crash.rig import STORE, BrokerRig, Mark, WriterRig, in_turn, marker
from crash.sample import PARTS
from crash.strace import marks_of

from cfbus.store import compaction
from cfbus.store.compaction import compact
from cfbus.store.folder import Store
from cfbus.store.seal import record

HOUR = 3_600_000_000


def _compact(root: Path, now: int, keep: int) -> None:
    compact(Store.peek(root / STORE), now, keep)


def begin(root: Path, mark: Mark) -> None:
    """Some segments, joined while no writer runs; the old files stay."""
    broker = BrokerRig(root, mark)
    broker.enrol("ann")
    writer = WriterRig(root, mark)
    writer.list_shards(1)
    writer.open_passes(1)
    for parts in (PARTS[:2], PARTS[2:4], PARTS[4:5]):
        writer.take(*parts)
        writer.seal_all()
    writer.close()
    _compact(root, 1, HOUR)


def die_before_the_swap(root: Path, mark: Mark) -> None:
    """The new file has its name, and the manifest knows it for spare only."""
    writer = WriterRig(root, mark)
    writer.take(PARTS[5])
    writer.seal_all()
    writer.close()

    def die(*_: object) -> None:
        os._exit(0)

    compaction.merge_ranges = die  # type: ignore[assignment,attr-defined]
    _compact(root, 2, HOUR)


def beside_a_writer(root: Path, mark: Mark) -> None:
    """In a process of its own, while the writer has the manifest open; the last segment has its journal file still."""
    writer = WriterRig(root, mark)
    writer.list_shards(2)
    for part in PARTS[6:9]:
        writer.take(part)
        writer.seal_all()
    command = [sys.executable, "-P", "-m", "cfbus.tools.main", "compact", str(root / STORE), "--keep-hours", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    writer.take(PARTS[9])
    writer.journal.roll()
    [closed] = writer.journal.closed()
    writer.journal.remove = lambda path: None  # type: ignore[method-assign]
    record(writer.manifest, writer.journal, closed, writer.seal(closed))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def end(root: Path, mark: Mark) -> None:
    """The rest, and all of it joined."""
    writer = WriterRig(root, mark)
    writer.open_passes(2)
    for part in PARTS[10:]:
        writer.take(part)
        writer.seal_all()
    writer.take(*PARTS)
    writer.close()
    _compact(root, 3 + HOUR, HOUR)


PHASES = (begin, die_before_the_swap, beside_a_writer, end)

if __name__ == "__main__":
    in_turn(PHASES, Path(sys.argv[1]), marker(marks_of(Path(sys.argv[1]))))
