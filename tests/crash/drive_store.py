"""The workload ``store``: every step of a store's life, with processes that end in the middle of it.

python drive_store.py ROOT
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from crash.rig import BrokerRig, Mark, WriterRig, in_turn, marker
from crash.sample import PARTS
from crash.strace import marks_of

from cfbus.bus.columns import build
from cfbus.store.durable import probe_room
from cfbus.store.seal import record, seal_command, seal_order
from cfbus.store.snapshots import write_contributors


def begin(root: Path, mark: Mark) -> None:
    """A new store; a segment that a child process seals; then the end without a word."""
    broker = BrokerRig(root, mark)
    broker.enrol("ann")
    writer = WriterRig(root, mark)
    writer.list_shards(1)
    writer.open_passes(1)
    for parts in (PARTS[:1], PARTS[1:2], PARTS[2:4]):
        writer.take(*parts)
        broker.follow(writer.store.store_id, writer.journal.position)
    broker.enrol("bob")
    closed = writer.journal.roll()
    assert closed is not None
    order = seal_order(closed.path)
    subprocess.run(seal_command(writer.store.root), input=order, check=True, stdout=subprocess.PIPE)
    sealed = writer.seal(closed)  # the same again
    record(writer.manifest, writer.journal, closed, sealed)
    writer.take(PARTS[4])


def leave_a_seal_half_done(root: Path, mark: Mark) -> None:
    """Two closed files; the first has its segment, but no row in the manifest."""
    writer = WriterRig(root, mark)
    writer.take(PARTS[5])
    writer.journal.roll()
    writer.take(PARTS[6])
    writer.journal.roll()
    writer.take(PARTS[7])
    writer.seal(writer.journal.closed()[0])


def leave_a_journal_file_that_is_sealed(root: Path, mark: Mark) -> None:
    """Seals again; another shard and pass; then a segment's row is there and its journal file too."""
    broker = BrokerRig(root, mark)
    broker.revoke("ann")
    writer = WriterRig(root, mark)
    writer.seal_all()
    writer.list_shards(2)
    probe_room(writer.store.staging_dir)
    writer.take(*PARTS[8:10])
    writer.open_passes(2)
    writer.take(*PARTS[10:12])
    broker.follow(writer.store.store_id, writer.journal.position)
    closed = writer.journal.roll()
    assert closed is not None

    def die(path: Path) -> None:
        os._exit(0)

    writer.journal.remove = die  # type: ignore[method-assign]
    record(writer.manifest, writer.journal, closed, writer.seal(closed))


def end(root: Path, mark: Mark) -> None:
    """The rest, all that came before once more, and the end in order."""
    writer = WriterRig(root, mark)
    for part in PARTS[12:]:
        writer.take(part)
    write_contributors(
        writer.store,
        build("contributors", 0, {"contributor_id": [], "name": [], "trust_level": []}),
        writer.manifest.totals(),
    )
    writer.amend(1)
    writer.seal_all()
    writer.take(*PARTS)
    writer.amend(2)
    writer.close()


PHASES = (begin, leave_a_seal_half_done, leave_a_journal_file_that_is_sealed, end)

if __name__ == "__main__":
    in_turn(PHASES, Path(sys.argv[1]), marker(marks_of(Path(sys.argv[1]))))
