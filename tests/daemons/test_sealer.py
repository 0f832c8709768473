"""The writer's child that seals: it stays for the next file, and its end, whenever it comes, costs but a start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes.support import kill, until
from store.conftest import Opened, captions, frame_of, open_all

from cfbus import runtime
from cfbus.daemons.sealer import IDLE_SECONDS, Sealer
from cfbus.errors import EXIT_DONE, DamagedStoreError
from cfbus.store.journal import JournalFile
from cfbus.store.seal import Sealed, record

ITEMS = 20


class Rig:
    """A store, and a sealer whose loop runs until it has told of a file."""

    def __init__(self, folder: Path) -> None:
        self.opened: Opened = open_all(folder)
        self.failed: list[int] = []
        self._loop = runtime.Loop()
        self.sealer = Sealer(self._loop, self.opened.store, self._sealed, self._not_sealed)

    def closed(self) -> JournalFile:
        """A file to seal, the next of the journal."""
        position = self.opened.journal.position + 1
        self.opened.journal.append([frame_of(position, captions(ITEMS), ((0, ITEMS),))])
        file = self.opened.journal.roll()
        assert file is not None
        return file

    def told(self) -> None:
        """Run until a file is sealed, or could not be."""
        self._loop.exit_code = None
        self._loop.run(lambda at: at + 1)

    def child(self) -> int:
        """The child's process id."""
        return next(iter(children()))

    def _sealed(self, file: JournalFile, sealed: Sealed) -> None:
        record(self.opened.manifest, self.opened.journal, file, sealed)
        self._loop.stop(EXIT_DONE)

    def _not_sealed(self, _file: JournalFile, exit_code: int, _said: str) -> None:
        self.failed.append(exit_code)
        self._loop.stop(EXIT_DONE)


def children() -> set[int]:
    """The processes that this one has started and that seal."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for word in (task / "children").read_text().split():
            if b"cfbus.store.seal" in Path(f"/proc/{word}/cmdline").read_bytes():
                found.add(int(word))
    return found


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "store")
    yield rig
    rig.sealer.end()
    rig.opened.close()
    assert not children()


def test_a_child_stays_for_the_next_file_and_ends_when_none_comes(rig: Rig) -> None:
    rig.sealer.begin(rig.closed())
    rig.told()
    first = rig.child()
    rig.sealer.begin(rig.closed())
    assert rig.sealer.tick(runtime.now() + 2 * IDLE_SECONDS) == float("inf"), "it is at work"
    rig.told()
    assert children() == {first}
    due = rig.sealer.tick(runtime.now())
    assert children() == {first}
    rig.sealer.tick(due)
    assert not children()
    rig.sealer.begin(rig.closed())
    rig.told()
    assert [row.rows for row in rig.opened.manifest.segments()] == [ITEMS] * 3
    assert not rig.failed


def test_a_child_that_is_killed_while_it_waits_is_not_missed(rig: Rig) -> None:
    rig.sealer.begin(rig.closed())
    rig.told()
    kill(rig.child())
    rig.sealer.begin(rig.closed())  # nobody may have noticed yet
    rig.told()
    if rig.failed:
        assert rig.failed == [-9]
        rig.sealer.begin(rig.opened.journal.closed()[0])
        rig.told()
    assert [row.rows for row in rig.opened.manifest.segments()] == [ITEMS] * 2


def test_a_child_that_cannot_seal_says_how_it_ended_and_another_takes_up_the_next(rig: Rig) -> None:
    file = rig.closed()
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:20_000])
    rig.sealer.begin(file)
    rig.told()
    assert rig.failed == [DamagedStoreError.exit_code]
    assert not rig.sealer.busy
    file.path.write_bytes(whole)
    rig.sealer.begin(file)
    rig.told()
    assert [row.rows for row in rig.opened.manifest.segments()] == [ITEMS]


def test_an_end_while_it_is_at_work_leaves_all_to_the_next(rig: Rig) -> None:
    file = rig.closed()
    rig.sealer.begin(file)
    rig.sealer.end()
    assert not rig.sealer.busy
    until("it is gone", lambda: not children())
    rig.sealer.begin(file)
    rig.told()
    assert [row.rows for row in rig.opened.manifest.segments()] == [ITEMS]
    assert not rig.failed
