"""The workload ``recovery``: each folder is taken up as it lies, and the workers send all again.

python drive_recovery.py ROOT...
"""

from __future__ import annotations

import sys
from pathlib import Path

from crash.rig import BrokerRig, WriterRig, marker
from crash.sample import PARTS, PASSES, SHARDS
from crash.strace import marks_of


def recover(root: Path) -> None:
    """As after every start, to the end."""
    mark = marker(marks_of(root))
    broker = BrokerRig(root, mark)
    broker.enrol("ann")
    broker.enrol("bob")
    broker.revoke("ann")
    writer = WriterRig(root, mark)
    broker.follow(writer.store.store_id, writer.journal.position)
    writer.list_shards(1)
    writer.open_passes(1)
    writer.take(*PARTS[:6])
    writer.seal_all()
    writer.list_shards(len(SHARDS))
    writer.open_passes(len(PASSES))
    writer.take(*PARTS)
    writer.seal_all()
    writer.close()
    broker.close()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        recover(Path(name))
