"""The power goes while a damaged journal is salvaged: it can be made again, and keeps the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from crash.cuts import cuts
from crash.rig import STORE, WriterRig
from crash.run import PLACES
from crash.sample import PARTS
from crash.strace import record

from cfbus.errors import DamagedStoreError
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest
from cfbus.store.salvage import inspect, salvage

SAMPLES = 2


def damaged_store(root: Path) -> None:
    """Two journal files, the first with a broken row in the middle, and a seal of it that was cut off."""
    writer = WriterRig(root)
    writer.list_shards(1)
    writer.open_passes(1)
    for part in PARTS[:5]:
        writer.take(part)
    writer.journal.roll()
    (closed,) = writer.journal.closed()
    writer.seal(closed)
    writer.take(PARTS[5])
    writer.close()
    data = closed.path.read_bytes()
    at = data.index(b"birds-00000/9 cannot be read")
    closed.path.write_bytes(data[:at] + b"B" + data[at + 1 :])


def positions(store: Path) -> list[int]:
    """What the journal has, made whole by a salvage if it does not open."""
    with Store.open(store, "birds", create=False) as opened:
        manifest = Manifest.open(opened)
        try:
            Journal.open(opened, manifest).close()
        except DamagedStoreError:
            salvage(opened, inspect(opened, manifest))
            Journal.open(opened, manifest).close()
        found = inspect(opened, manifest)
        manifest.close()
    assert not any(one.problem or one.gap for one in found)
    return [at for one in found for first, last in one.kept for at in range(first, last + 1)]


@pytest.mark.usefixtures("recorder")
def test_a_salvage_that_is_cut_off_is_made_again(memory: Path) -> None:
    root = memory / "root"
    root.mkdir()
    damaged_store(root)
    command = [sys.executable, "-m", "cfbus.tools.main", "journal", "salvage", str(root / STORE)]
    (recording,) = record(command, [root], memory / "log", PLACES)
    assert positions(root / STORE) == [1, 2, 4, 5, 6]
    found = cuts(recording, 0, SAMPLES)
    assert len(found) > 100
    for number, cut in enumerate(found):
        place = memory / f"image-{number}"
        cut.lay_out(place)
        assert positions(place / STORE) == [1, 2, 4, 5, 6], f"after operation {cut.first}..{cut.last}"
        shutil.rmtree(place)
