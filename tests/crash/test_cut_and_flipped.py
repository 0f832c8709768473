"""A journal file, its log and the manifest, cut off at every byte and with a bit flipped in every byte.

Never a wrong row and never a silent loss: the writer stops with a sentence, or the broker sees that the store ends
before what was acknowledged, or nothing was harmed. From what is damaged, whole frames are carved, and no wrong one.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash.cuts import Cut, Facts
from crash.rig import STORE, BrokerRig, WriterRig
from crash.run import work_folder
from crash.sample import Part
from crash.strace import read_folder

from cfbus.core.frame import JournalFrame
from cfbus.errors import CfbusError, DamagedStoreError, StoreMismatchError
from cfbus.store.carving import carve
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest
from cfbus.store.salvage import inspect, salvage

CLOSED = (Part(1, 1, 0, 0, 4), Part(2, 1, 0, 9, 10, failed=True), Part(3, 1, 0, 14, 18))
OPEN = (Part(4, 1, 0, 21, 24), Part(5, 1, 1, 0, 3))
FILES = {
    "closed": "journal/0000000000000001.sqlite",
    "open": "journal/0000000000000004.sqlite",
    "log": "journal/0000000000000004.sqlite-wal",
    "manifest": "manifest.sqlite",
    "manifest-log": "manifest.sqlite-wal",
}
EVERY = os.environ.get("CRASH_TEST_EVERY_BYTE") == "1"
IDLE, USED = 64, 3
"""Of bytes that are zero, and of cuts, one in so many is looked at, and so of other bytes; all in ``make sim``."""


@dataclass(frozen=True)
class Stored:
    """A disk with a closed journal file and an open one, and the frames that were acknowledged."""

    cut: Cut
    frames: dict[int, JournalFrame]
    store_id: str


@pytest.fixture(scope="module")
def stored() -> Stored:
    with work_folder() as folder:
        root = folder / "root"
        root.mkdir()
        writer, broker = WriterRig(root), BrokerRig(root)
        writer.list_shards(2)
        writer.open_passes(2)
        for part in CLOSED:
            writer.take(part)
        writer.journal.roll()
        for part in OPEN:
            writer.take(part)
        broker.follow(writer.store.store_id, writer.journal.position)
        broker.close()
        image = read_folder(root).content()
        frames = {at: frame for name in ("closed", "open") for at, frame in carve(root / STORE / FILES[name]).items()}
        writer.close()
        assert sorted(frames) == [1, 2, 3, 4, 5]
        return Stored(Cut(image, 0, 0, Facts(), set()), frames, writer.store.store_id)


def content(stored: Stored, name: str) -> bytes:
    data = stored.cut.image[f"{STORE}/{FILES[name]}"]
    assert data, f"{name} is empty"
    return data


def flips(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A bit of each byte."""
    for at, byte in enumerate(data):
        if EVERY or at % (USED if byte else IDLE) == 0:
            bit = 1 << at % 8
            yield f"bit {bit} of byte {at}", data[:at] + bytes([byte ^ bit]) + data[at + 1 :]


def truncations(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The file up to each byte."""
    for length in range(0, len(data), 1 if EVERY else IDLE):
        yield f"{length} of {len(data)} bytes", data[:length]


def lay_out(stored: Stored, name: str, data: bytes, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    image = {path: bytes_ for path, bytes_ in stored.cut.image.items() if not path.endswith("parquet.new")}
    Cut({**image, f"{STORE}/{FILES[name]}": data}, 0, 0, Facts(), set()).lay_out(root)
    return root / STORE


def frames_of(store: Path) -> dict[int, JournalFrame]:
    """What a writer of this store has, by position; raises what it would stop with."""
    with Store.open(store, "birds", create=False) as opened:
        manifest = Manifest.open(opened)
        try:
            journal = Journal.open(opened, manifest)
            journal.roll()
            journal.close()
            found: dict[int, JournalFrame] = {}
            for file in journal.closed():
                found |= carve(file.path)
            assert max(found, default=0) == journal.position
            return found
        finally:
            manifest.close()


def judge(stored: Stored, name: str, data: bytes, root: Path) -> str:
    """What becomes of a damaged file."""
    store = lay_out(stored, name, data, root)
    if name in ("closed", "open", "log"):
        carved = carve(store / FILES[name.replace("log", "open")])
        assert all(stored.frames[at] == frame for at, frame in carved.items()), "a wrong frame was carved"
    try:
        found = frames_of(store)
    except (DamagedStoreError, StoreMismatchError):
        return "stopped"
    except CfbusError as error:
        return f"SILENT: {error!r}"
    if any(stored.frames[at] != frame for at, frame in found.items()):
        return "SILENT: a wrong frame"
    if found.keys() == stored.frames.keys():
        return "unharmed"
    broker = BrokerRig(root)
    try:
        stopped = broker.greet(stored.store_id, max(found, default=0))
        return "noticed by the broker" if stopped else f"SILENT: only {sorted(found)}"
    finally:
        broker.close()


@pytest.mark.parametrize("how", [flips, truncations], ids=lambda how: how.__name__)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_never_silent(name: str, how: object, stored: Stored, memory: Path) -> None:
    whole = content(stored, name)
    damage = flips(whole) if how is flips else truncations(whole)
    judged = [(what, judge(stored, name, data, memory / "root")) for what, data in damage]
    silent = [(what, verdict) for what, verdict in judged if "SILENT" in verdict]
    assert not silent, f"{len(silent)} of {name}, such as {silent[:5]}"
    counts = Counter(verdict for _, verdict in judged)
    print(f"{name}: {dict(counts)}")


@pytest.mark.parametrize("name", ["closed", "open", "log"])
def test_what_is_whole_is_salvaged(name: str, stored: Stored, memory: Path) -> None:
    whole = content(stored, name)
    damaged = [(what, data) for what, data in flips(whole) if judge(stored, name, data, memory / "root") == "stopped"]
    damaged += [("no first page", bytes(16384) + whole[16384:]), ("nothing but zeros", bytes(len(whole)))]
    random.Random(0).shuffle(damaged)
    for what, data in damaged[:24]:
        store = lay_out(stored, name, data, memory / "root")
        with Store.open(store, "birds", create=False) as opened:
            manifest = Manifest.open(opened)
            found = inspect(opened, manifest)
            if any(one.problem or one.gap for one in found):
                salvage(opened, found)
            assert not any(one.problem or one.gap for one in inspect(opened, manifest)), what
            manifest.close()
        kept = frames_of(store)
        assert all(stored.frames[at] == frame for at, frame in kept.items()), what
        others = {"closed": {4, 5}, "open": {1, 2, 3}, "log": {1, 2, 3}}[name]
        assert others <= kept.keys(), what
        shutil.copytree(store.parents[1], memory / "again")
        go_on(memory / "again")
        shutil.rmtree(memory / "again")


def go_on(root: Path) -> None:
    """The workers send all again, and each item has its row."""
    writer = WriterRig(root)
    try:
        writer.take(*CLOSED, *OPEN)
        writer.seal_all()
        done = writer.core.inventory.done()
        assert done == {(1, 0): ((0, 4), (9, 10), (14, 18), (21, 24)), (1, 1): ((0, 3),)}
    finally:
        writer.close()
