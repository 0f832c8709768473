from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.bus.wire import decode_table
from cfbus.core.frame import JournalFrame
from cfbus.errors import DamagedStoreError, DiskFullError, StoreMismatchError
from cfbus.store import journal as journal_module
from cfbus.store.folder import Store
from cfbus.store.journal import Journal, read_frames
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import DoneRange, SegmentRow, merge_ranges

Make = Callable[..., JournalFrame]


class Opened(Protocol):
    store: Store
    manifest: Manifest
    journal: Journal

    def close(self) -> None: ...


class Disk(Protocol):
    path: Path

    def fill(self) -> None: ...
    def free(self) -> None: ...


Opener = Callable[[Path], Opened]


def reopen(opened: Opened) -> None:
    opened.journal.close()
    opened.journal = Journal.open(opened.store, opened.manifest)


def done(journal: Journal) -> list[list[int]]:
    merged: list[list[int]] = merge_ranges(journal.done()).tolist()
    return merged


@st.composite
def masked(draw: st.DrawFn) -> tuple[tuple[tuple[int, int], ...], list[bool] | None]:
    at = 0
    ranges: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(1, 4))):
        start = at + draw(st.integers(0 if not ranges else 1, 5))
        at = start + draw(st.integers(1, 20))
        ranges.append((start, at))
    count = sum(end - start for start, end in ranges)
    bits = st.lists(st.booleans(), min_size=count, max_size=count)
    return tuple(ranges), draw(st.none() | bits)


def pack(bits: list[bool] | None) -> bytes | None:
    return None if bits is None else np.packbits(bits, bitorder="little").tobytes()


@given(masked())
def test_a_frame_counts_the_items_that_its_mask_names(
    case: tuple[tuple[tuple[int, int], ...], list[bool] | None],
) -> None:
    ranges, bits = case
    frame = JournalFrame(1, "captions", "", "", 2, 5, ranges, pack(bits), "", "", 0, 0, b"")
    items = [item for start, end in ranges for item in range(start, end)]
    wanted = [item for item, bit in zip(items, bits or [True] * len(items), strict=True) if bit]
    assert frame.items().tolist() == items
    assert [item for _, _, start, end in frame.done() for item in range(start, end)] == wanted
    assert {one[:2] for one in frame.done()} <= {(2, 5)}


def test_what_is_appended_is_there_after_opening_again(opened: Opened, simple: Make) -> None:
    frames = [simple(position) for position in range(1, 8)]
    opened.journal.append(frames[:3])
    opened.journal.append([])
    opened.journal.append(frames[3:])
    assert opened.journal.position == 7
    assert opened.journal.size() == sum(len(frame.frame) for frame in frames)
    assert done(opened.journal) == [[1, 0, 0, 28]]
    assert opened.journal.totals() == {"contributor1": 12, "contributor2": 8, "contributor0": 8}
    before = (opened.journal.size(), done(opened.journal), opened.journal.totals())
    reopen(opened)
    assert opened.journal.position == 7
    assert (opened.journal.size(), done(opened.journal), opened.journal.totals()) == before
    opened.journal.append([simple(8)])
    closed = opened.journal.roll()
    assert closed is not None
    assert (closed.first, closed.last) == (1, 8)
    assert list(read_frames(closed.path)) == [*frames, simple(8)]


def test_totals_count_each_slot_of_the_pass(opened: Opened, framer: Make, simple: Make) -> None:
    table = decode_table("captions", simple(1).frame)
    opened.journal.append([framer(1, table, ((0, 4),), pass_number=2, mask=b"\x05")])
    assert opened.journal.totals() == {"contributor1": 6}
    assert done(opened.journal) == [[2, 0, 0, 1], [2, 0, 2, 3]]


def test_a_rolled_file_is_complete_in_itself(opened: Opened, simple: Make, tmp_path: Path) -> None:
    assert opened.journal.roll() is None
    opened.journal.append([simple(1), simple(2)])
    closed = opened.journal.roll()
    assert closed is not None
    assert opened.journal.roll() is None
    assert [path.name for path in opened.store.journal_dir.iterdir()] == ["0000000000000001.sqlite"]
    alone = tmp_path / closed.path.name
    shutil.copy(closed.path, alone)
    assert len(list(read_frames(alone))) == 2
    opened.journal.append([simple(3)])
    assert (opened.store.journal_dir / "0000000000000003.sqlite").exists()
    opened.journal.roll()
    reopen(opened)
    assert [(file.first, file.last) for file in opened.journal.closed()] == [(1, 2), (3, 3)]
    assert opened.journal.position == 3


@pytest.mark.parametrize("positions", [(2,), (0,), (1, 3), (1, 1), (2, 1)])
def test_positions_go_on_without_gaps(opened: Opened, simple: Make, positions: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        opened.journal.append([simple(max(position, 1)) if position else _at_zero(simple) for position in positions])
    assert opened.journal.position == 0


def _at_zero(simple: Make) -> JournalFrame:
    one = simple(1)
    return JournalFrame(**{**{name: getattr(one, name) for name in one.__dataclass_fields__}, "position": 0})


def test_a_file_without_frames_is_taken_away(opened: Opened, simple: Make) -> None:
    opened.journal.append([simple(1)])
    opened.journal.roll()
    (opened.store.journal_dir / "0000000000000002.sqlite").write_bytes(b"")
    reopen(opened)
    assert [file.first for file in opened.journal.closed()] == [1]
    opened.journal.append([simple(2)])
    assert opened.journal.position == 2


def test_frames_of_a_writer_that_was_killed(opener: Opener, tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import conftest
opened = conftest.open_all(Path({str(tmp_path / "store")!r}))
opened.journal.append([conftest.simple_frame(n) for n in (1, 2)])
opened.journal.roll()
opened.journal.append([conftest.simple_frame(n) for n in (3, 4, 5)])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    opened = opener(tmp_path / "store")
    assert opened.journal.position == 5
    assert [(file.first, file.last) for file in opened.journal.closed()] == [(1, 2)]
    assert done(opened.journal) == [[1, 0, 0, 20]]
    opened.close()


def test_a_sealed_file_is_taken_away_at_the_next_start(opened: Opened, simple: Make) -> None:
    opened.journal.append([simple(1), simple(2)])
    closed = opened.journal.roll()
    assert closed is not None
    opened.journal.append([simple(3)])
    opened.manifest.add_segment(SegmentRow(1, 2, (), 8, 0, 0, 0, {}), merge_ranges(closed.done))
    reopen(opened)
    assert not closed.path.exists()
    assert opened.journal.closed() == ()
    assert opened.journal.position == 3
    assert done(opened.journal) == [[1, 0, 8, 12]]


def three_files(opened: Opened, simple: Make) -> list[Path]:
    for position in (1, 2, 3):
        opened.journal.append([simple(position)])
        opened.journal.roll()
    opened.journal.close()
    return [file.path for file in opened.journal.closed()]


def test_a_missing_file_stops_the_writer_until_it_is_given_up(opened: Opened, simple: Make) -> None:
    paths = three_files(opened, simple)
    aside = opened.store.journal_dir / "damaged"
    aside.mkdir()
    paths[1].rename(opened.store.root / paths[1].name)
    for _ in range(2):
        with pytest.raises(DamagedStoreError, match="position 2 should come next"):
            Journal.open(opened.store, opened.manifest)
    assert paths[0].exists()
    assert paths[2].exists()
    (opened.store.root / paths[1].name).rename(aside / paths[1].name)
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert done(opened.journal) == [[1, 0, 0, 4], [1, 0, 8, 12]]
    assert opened.journal.position == 3


def test_a_file_that_was_sealed_under_another_name_is_refused(opened: Opened, simple: Make) -> None:
    paths = three_files(opened, simple)
    shutil.copy(paths[0], paths[0].with_name("0000000000000004.sqlite"))
    with pytest.raises(DamagedStoreError):
        Journal.open(opened.store, opened.manifest)
    opened.journal = Journal(opened.store, opened.manifest)


def test_a_gap_inside_a_file_is_damage(opened: Opened, simple: Make) -> None:
    opened.journal.append([simple(position) for position in range(1, 6)])
    opened.journal.close()
    path = opened.store.journal_dir / "0000000000000001.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM frames WHERE position = 3")
    connection.close()
    with pytest.raises(DamagedStoreError, match=r"position 3 is missing.*cfbus journal salvage"):
        Journal.open(opened.store, opened.manifest)
    assert path.exists()


@pytest.mark.parametrize(
    "change",
    [
        "frame = substr(frame, 2)", "mask = x'01'", "shard = 1", "kind = 'failures'", "pass_number = 2",
        "contributor = 'me'", "received = 1", "ranges = x'00'", "crc = 0", "row_crc = 0", "lease = NULL OR lease",
    ],
)  # fmt: skip
def test_a_changed_row_is_damage(opened: Opened, simple: Make, change: str) -> None:
    opened.journal.append([simple(1), simple(2)])
    opened.journal.close()
    with sqlite3.connect(opened.store.journal_dir / "0000000000000001.sqlite") as connection:
        connection.execute(f"UPDATE frames SET {change} WHERE position = 2")
    connection.close()
    with pytest.raises(DamagedStoreError):
        Journal.open(opened.store, opened.manifest)


def test_frames_of_unknown_items_are_damage(opened: Opened, framer: Make, simple: Make) -> None:
    table = decode_table("captions", simple(1).frame)
    opened.journal.append([framer(1, table, ((0, 4),), shard=7)])
    with pytest.raises(DamagedStoreError, match="does not know"):
        reopen(opened)


def test_a_newer_journal_says_to_upgrade(opened: Opened, simple: Make) -> None:
    opened.journal.append([simple(1)])
    opened.journal.close()
    with sqlite3.connect(opened.store.journal_dir / "0000000000000001.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StoreMismatchError, match="newer cfbus"):
        Journal.open(opened.store, opened.manifest)


def test_flipped_bytes_and_cuts_are_noticed(opened: Opened, simple: Make) -> None:
    frames = [simple(position, 16, "word " * 40) for position in range(1, 21)]
    opened.journal.append(frames)
    closed = opened.journal.roll()
    assert closed is not None
    whole = closed.path.read_bytes()
    truth = done(opened.journal)
    rng = np.random.default_rng(11)
    noticed = 0
    offsets = [*range(100), *rng.choice(len(whole), 150, replace=False).tolist()]
    cuts = [whole[:size] for size in rng.choice(len(whole), 20, replace=False).tolist() if size > 0]
    for altered in [*(_flip(whole, offset) for offset in offsets), *cuts]:
        closed.path.write_bytes(altered)
        try:
            reopen(opened)
        except (DamagedStoreError, StoreMismatchError):
            noticed += 1
            continue
        finally:
            for beside in opened.store.journal_dir.glob("*-*"):
                beside.unlink()
        assert opened.journal.position == 20
        assert done(opened.journal) == truth
        file = opened.journal.closed() or (opened.journal.roll(),)
        assert file[0] is not None
        assert list(read_frames(file[0].path)) == frames
    assert noticed > 100


def _flip(whole: bytes, offset: int) -> bytes:
    flipped = bytearray(whole)
    flipped[offset] ^= 1 << (offset % 8)
    return bytes(flipped)


def test_a_full_disk_takes_nothing_and_goes_on_later(opener: Opener, small_disk: Disk, simple: Make) -> None:
    opened = opener(small_disk.path / "store")
    opened.journal.append([simple(1)])
    small_disk.fill()
    big = [simple(position, 64, "x" * 300) for position in range(2, 9)]
    for _ in range(3):
        with pytest.raises(DiskFullError):
            opened.journal.append(big)
        assert opened.journal.position == 1
    small_disk.free()
    opened.journal.append(big)
    opened.journal.append([simple(9)])
    reopen(opened)
    assert opened.journal.position == 9
    closed = opened.journal.roll()
    assert closed is not None
    assert list(read_frames(closed.path)) == [simple(1), *big, simple(9)]
    opened.close()


def test_a_full_disk_at_the_first_frame_and_at_roll(opener: Opener, small_disk: Disk, simple: Make) -> None:
    opened = opener(small_disk.path / "store")
    small_disk.fill()
    with pytest.raises(DiskFullError):
        opened.journal.append([simple(1)])
    assert opened.journal.roll() is None
    small_disk.free()
    big = [simple(position, 64, "x" * 300) for position in range(1, 20)]
    opened.journal.append(big)
    small_disk.fill()
    with pytest.raises(DiskFullError):
        opened.journal.roll()
    assert opened.journal.closed() == ()
    small_disk.free()
    opened.journal.append([simple(20)])
    closed = opened.journal.roll()
    assert closed is not None
    assert list(read_frames(closed.path)) == [*big, simple(20)]
    opened.close()


def test_the_log_is_copied_into_the_file_now_and_then(
    opened: Opened, simple: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "CHECKPOINT_BYTES", 200_000)
    for position in range(1, 101):
        opened.journal.append([simple(position, 64, "x" * 300)])
    log = opened.store.journal_dir / "0000000000000001.sqlite-wal"
    assert log.stat().st_size < 1_000_000
    reopen(opened)
    assert opened.journal.position == 100
    one: DoneRange = next(iter(opened.journal.done()))
    assert one == (1, 0, 0, 64)
