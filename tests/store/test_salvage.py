"""What a salvage keeps and says; power cuts in it are in ``tests/crash/test_salvage_cut_off.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from cfbus.core.frame import JournalFrame
from cfbus.errors import DamagedStoreError
from cfbus.store.folder import Store
from cfbus.store.journal import Journal, read_frames, write_closed
from cfbus.store.manifest import Manifest
from cfbus.store.salvage import inspect, salvage, spans

Make = Callable[..., JournalFrame]


class Opened(Protocol):
    store: Store
    manifest: Manifest
    journal: Journal


def damage(path: Path, position: int) -> None:
    """Break the frame at a position."""
    data = path.read_bytes()
    at = data.index(f"text {position:04d}".encode())
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])


def three_files(opened: Opened, simple: Make) -> list[JournalFrame]:
    """Three closed journal files of three frames each."""
    frames = [simple(position, 2, f"text {position:04d}") for position in range(1, 10)]
    for first in (0, 3, 6):
        opened.journal.append(frames[first : first + 3])
        opened.journal.roll()
    opened.journal.close()
    return frames


def journal_file(opened: Opened, first: int) -> Path:
    return opened.store.journal_dir / f"{first:016d}.sqlite"


def test_what_is_whole_is_left_alone(opened: Opened, simple: Make) -> None:
    three_files(opened, simple)
    found = inspect(opened.store, opened.manifest)
    assert [(one.first, one.last, one.problem, one.gap) for one in found] == [
        (1, 3, "", None), (4, 6, "", None), (7, 9, "", None),
    ]  # fmt: skip
    assert [one.kept for one in found] == [[(1, 3)], [(4, 6)], [(7, 9)]]
    assert not any(one.lost for one in found)


def test_whole_frames_keep_their_positions(opened: Opened, simple: Make) -> None:
    frames = three_files(opened, simple)
    damage(journal_file(opened, 4), 5)
    with pytest.raises(DamagedStoreError, match="cfbus journal salvage"):
        Journal.open(opened.store, opened.manifest)
    found = inspect(opened.store, opened.manifest)
    assert [(one.kept, one.lost) for one in found] == [([(1, 3)], []), ([(4, 4), (6, 6)], [(5, 5)]), ([(7, 9)], [])]
    salvage(opened.store, found)
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert opened.journal.position == 9
    kept = [frame for file in opened.journal.closed() for frame in read_frames(file.path)]
    assert kept == [*frames[:4], *frames[5:]]
    aside = opened.store.journal_dir / "damaged"
    assert sorted(path.name for path in aside.iterdir()) == [f"{4:016d}.sqlite.damaged", f"{5:016d}.lost"]
    said = json.loads((aside / f"{5:016d}.lost").read_bytes())
    assert said == {"first": 5, "last": 5, "of": f"{4:016d}.sqlite"}


def test_a_file_that_is_gone_is_given_up(opened: Opened, simple: Make) -> None:
    three_files(opened, simple)
    journal_file(opened, 4).unlink()
    found = inspect(opened.store, opened.manifest)
    assert [one.gap for one in found] == [None, (4, 6)]
    salvage(opened.store, found)
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert opened.journal.position == 9
    assert not any(one.gap for one in inspect(opened.store, opened.manifest))


@pytest.mark.parametrize(("position", "last"), [(9, 8), (7, 9)])
def test_the_end_may_be_lost(position: int, last: int, opened: Opened, simple: Make) -> None:
    three_files(opened, simple)
    damage(journal_file(opened, 7), position)
    salvage(opened.store, inspect(opened.store, opened.manifest))
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert opened.journal.position == last


def test_nothing_may_be_whole(opened: Opened, simple: Make) -> None:
    three_files(opened, simple)
    journal_file(opened, 4).write_bytes(b"no database" * 1000)
    found = inspect(opened.store, opened.manifest)
    assert (found[1].kept, found[1].lost) == ([], [(4, 6)])
    salvage(opened.store, found)
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert [file.first for file in opened.journal.closed()] == [1, 7]


def test_an_item_gets_no_second_row(opened: Opened, simple: Make) -> None:
    """Behind the end of a log may stand what a transaction left that was taken back."""
    three_files(opened, simple)
    again = simple(2, 2, "text 0002")
    copy = JournalFrame(**{**vars(again), "position": 6})
    (journal_file(opened, 4)).unlink()
    manifest = opened.manifest
    write_closed(journal_file(opened, 4), [simple(4, 2, "text 0004"), simple(5, 2, "text 0005"), copy])
    damage(journal_file(opened, 4), 5)
    found = inspect(opened.store, manifest)
    assert (found[1].kept, found[1].lost) == ([(4, 4)], [(5, 6)])


def test_damage_may_come_twice(opened: Opened, simple: Make) -> None:
    three_files(opened, simple)
    for position in (5, 4):
        damage(journal_file(opened, 4), position)
        salvage(opened.store, inspect(opened.store, opened.manifest))
    names = {path.name for path in (opened.store.journal_dir / "damaged").iterdir()}
    assert {f"{4:016d}.sqlite.damaged", f"{4:016d}.sqlite.damaged-2"} <= names
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert [file.first for file in opened.journal.closed()] == [1, 6, 7]


def test_spans_are_runs() -> None:
    assert spans([1, 2, 3, 5, 8, 9]) == [(1, 3), (5, 5), (8, 9)]
    assert spans([]) == []
