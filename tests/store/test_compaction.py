"""Compaction: the same rows in fewer files, beside readers and a writer that never see them twice or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import cfbus
from cfbus.core.frame import JournalFrame
from cfbus.errors import DamagedStoreError, StoreInUseError
from cfbus.store import compaction
from cfbus.store.compaction import Compacted, compact
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import SegmentRow
from cfbus.store.schema import SCHEMAS
from cfbus.store.seal import record, seal_journal
from cfbus.tools.compact import command

Framer = Callable[..., JournalFrame]
Opener = Callable[[Path], "Opened"]
HOUR = 3_600_000_000


class Opened(Protocol):
    store: Store
    manifest: Manifest
    journal: Journal

    def close(self) -> None: ...


def seal(opened: Opened, *frames: JournalFrame) -> None:
    opened.journal.append([replace(frame, position=opened.journal.position + 1 + n) for n, frame in enumerate(frames)])
    closed = opened.journal.roll()
    assert closed is not None
    record(opened.manifest, opened.journal, closed, seal_journal(opened.store.root, closed.path))


def fill(opened: Opened, simple: Framer, segments: int, items: int = 4) -> None:
    for number in range(segments):
        at = opened.journal.position + 1
        seal(opened, simple(at, items, f"segment {number}"))


def rows(root: Path, latest: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cfbus.open(root, latest=latest).arrow().sort_by("commit_seq").to_pylist()
    return found


def run(opened: Opened, now: int = 1, keep: int = HOUR, **more: Any) -> Compacted:
    """In this process: the writer's connection to the manifest stays open."""
    return compact(opened.store, now, keep, **more)


def files(opened: Opened, table: str = "captions") -> list[str]:
    return sorted(path.name for path in (opened.store.root / table).iterdir())


def test_small_segments_become_one(opened: Opened, simple: Framer) -> None:
    fill(opened, simple, 7)
    before, old = rows(opened.store.root), cfbus.open(opened.store.root)
    done = run(opened)
    assert (done.before, done.after, done.rows, done.dropped, done.removed) == (7, 1, 28, 0, 0)
    view = cfbus.open(opened.store.root)
    assert (len(view.files()), view.rows, view.position) == (1, 28, 7)
    assert rows(opened.store.root) == before
    assert old.arrow().num_rows == 28, "who began before reads on"
    assert len(files(opened)) == 8
    assert run(opened, 2 + HOUR).removed == 7
    assert files(opened) == [f"{1:016d}.1.parquet"]
    [path] = view.files()
    written, plain = pq.ParquetFile(path), pq.ParquetFile(path).schema_arrow
    assert plain == SCHEMAS["captions"]
    assert written.metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_writer_goes_on_beside_it(opener: Opener, tmp_path: Path, simple: Framer) -> None:
    opened = opener(tmp_path / "own")
    fill(opened, simple, 3)
    run(opened, keep=0)
    fill(opened, simple, 2)
    assert opened.manifest.last_position() == 5
    assert sum(opened.manifest.totals().values()) == 20
    run(opened, keep=0)
    assert len(rows(opened.store.root)) == 20
    opened.close()
    with Store.open(opened.store.root, "birds", create=False) as store:
        manifest = Manifest.open(store)
        journal = Journal.open(store, manifest)
        assert (journal.position, len(manifest.segments()), sum(manifest.totals().values())) == (5, 1, 20)
        assert sum(end - start for _, _, start, end in manifest.done()) == 20
        journal.close()
        manifest.close()


def test_sizes_decide(opened: Opened, simple: Framer) -> None:
    fill(opened, simple, 8)
    size = opened.manifest.segments()[0].size
    run(opened, small=size * 2, large=size * 4)
    found = [(one.first, one.last) for one in Manifest.open(Store.peek(opened.store.root)).segments()]
    assert found == [(1, 3), (4, 6), (7, 8)] or all(b - a >= 2 for a, b in found[:-1]), found
    again = run(opened, small=1, large=size * 100)
    assert again.rows == 0, "what is not small stays"


def test_what_lies_between_is_not_jumped_over(opened: Opened, simple: Framer) -> None:
    """A journal file that could not be sealed yet, and its later neighbour is."""
    fill(opened, simple, 2)
    opened.journal.append([simple(3)])
    waiting = opened.journal.roll()
    assert waiting is not None
    opened.journal.append([simple(4)])
    later = opened.journal.roll()
    assert later is not None
    record(opened.manifest, opened.journal, later, seal_journal(opened.store.root, later.path))
    run(opened)
    record(opened.manifest, opened.journal, waiting, seal_journal(opened.store.root, waiting.path))
    assert len(rows(opened.store.root)) == 16
    run(opened)
    assert len(rows(opened.store.root)) == 16
    assert len(cfbus.open(opened.store.root).files()) == 1


def test_a_segment_whose_journal_file_is_still_there_stays(
    opener: Callable[[Path], Opened], tmp_path: Path, simple: Framer
) -> None:
    opened = opener(tmp_path / "own")
    fill(opened, simple, 2)
    opened.journal.append([simple(3)])
    closed = opened.journal.roll()
    assert closed is not None
    kept = closed.path.read_bytes()
    record(opened.manifest, opened.journal, closed, seal_journal(opened.store.root, closed.path))
    closed.path.write_bytes(kept)
    run(opened, keep=0)
    assert [one.first for one in Manifest.open(Store.peek(opened.store.root)).segments()] == [1, 3]
    opened.close()
    with Store.open(opened.store.root, "birds", create=False) as store:
        manifest = Manifest.open(store)
        Journal.open(store, manifest).close()
        manifest.close()
    assert not closed.path.exists()
    assert len(rows(opened.store.root)) == 12


def two_passes(opened: Opened, framer: Framer) -> None:
    """Pass 2 wrote items 2 and 3 again."""
    from store.test_view import failures_table, slots_table

    seal(opened, framer(1, slots_table(6, ("short",), "one"), ((0, 6),)), framer(1, failures_table(1), ((9, 10),)))
    again = slots_table(2, ("short", "tags", "long"), "two")
    seal(opened, framer(1, again, ((2, 4),), pass_number=2), framer(1, failures_table(1), ((9, 10),), pass_number=2))


def test_replaced_rows_are_dropped(opened: Opened, framer: Framer) -> None:
    two_passes(opened, framer)
    before = rows(opened.store.root)
    dead = cfbus.open(opened.store.root).failures.arrow().to_pylist()
    done = run(opened, keep=0)
    assert (done.dropped, done.after) == (3, 1)
    assert rows(opened.store.root) == rows(opened.store.root, latest=False) == before
    assert cfbus.open(opened.store.root, latest=False).failures.arrow().to_pylist() == dead
    assert run(opened).rows == 0, "there is nothing more to drop"


def test_replaced_rows_are_dropped_from_a_segment_alone(opened: Opened, framer: Framer) -> None:
    two_passes(opened, framer)
    before = rows(opened.store.root)
    assert run(opened, keep=0, small=1).dropped == 3
    assert len(cfbus.open(opened.store.root).files()) == 2
    assert rows(opened.store.root, latest=False) == before


def test_readers_in_a_loop_see_every_row_once(opened: Opened, simple: Framer) -> None:
    fill(opened, simple, 2)
    ended = threading.Event()
    seen: list[int] = []
    problems: list[str] = []

    def read() -> None:
        while not ended.is_set():
            view = cfbus.open(opened.store.root)
            found = view.arrow(columns=["item_index", "commit_seq"])
            keys = set(zip(found["item_index"].to_pylist(), found["commit_seq"].to_pylist(), strict=True))
            if len(keys) != found.num_rows or {seq for _, seq in keys} != set(range(1, view.position + 1)):
                problems.append(f"{len(keys)} of {found.num_rows} at {view.position}")
            seen.append(found.num_rows)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    rounds = 0
    # Until they have read while it changed.
    while rounds < 12 or (len(set(seen)) <= 2 and rounds < 500):
        fill(opened, simple, 2)
        run(opened, now=1 + rounds, keep=HOUR)
        rounds += 1
    ended.set()
    for reader in readers:
        reader.join(60)
    assert not problems
    assert len(set(seen)) > 2


def test_killed_anywhere_and_done_again(opened: Opened, simple: Framer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    steps = ("publish", "_write", "merge_ranges", "remove_file")
    fill(opened, simple, 3)
    before = rows(opened.store.root)
    for step in steps:
        real = getattr(compaction, step)

        def die(*given: Any, real: Any = real) -> Any:
            real(*given)
            raise Killed

        monkeypatch.setattr(compaction, step, die)
        with pytest.raises(Killed):
            run(opened, now=5, keep=0)
        monkeypatch.setattr(compaction, step, real)
        assert rows(opened.store.root) == before
        opened.manifest.check_files(opened.store, [])
    run(opened, now=6, keep=0)
    assert rows(opened.store.root) == before
    assert len(files(opened)) == 1
    assert not list((opened.store.root / "compacting").iterdir())


def test_two_at_once(opened: Opened, simple: Framer) -> None:
    fill(opened, simple, 3)

    def other(done: int, of: int) -> None:
        with pytest.raises(StoreInUseError):
            run(opened)

    run(opened, on_group=other)


def test_damage_is_not_copied(opened: Opened, simple: Framer) -> None:
    fill(opened, simple, 3)
    path = opened.store.root / "captions" / f"{2:016d}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DamagedStoreError):
        run(opened, keep=0)
    assert len(files(opened)) == 3


def test_a_file_that_the_manifest_does_not_name_is_never_removed(opened: Opened, simple: Framer) -> None:
    fill(opened, simple, 2)
    outside = opened.store.root / "listing" / "keep.parquet"
    outside.write_bytes(b"x")
    opened.manifest.add_spare(["listing/keep.parquet"], 0)
    with pytest.raises(DamagedStoreError):
        run(opened, keep=0)
    assert outside.exists()


def test_a_store_of_the_version_before(opener: Opener, tmp_path: Path, simple: Framer) -> None:
    opened = opener(tmp_path / "own")
    fill(opened, simple, 2)
    for table in ("spare", "redos", "selections", "tombstones"):
        opened.manifest._connection.execute(f"DROP TABLE {table}")
    opened.manifest._connection.execute("PRAGMA user_version = 1")
    opened.close()
    assert len(rows(opened.store.root)) == 8
    assert compact(Store.peek(opened.store.root), 1, 0).after == 1
    assert len(rows(opened.store.root)) == 8


def test_by_hand_in_a_process_of_its_own(opened: Opened, simple: Framer) -> None:
    fill(opened, simple, 3)
    line = [sys.executable, "-m", "cfbus.tools.main", "compact", str(opened.store.root), "--keep-hours", "0"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=300)
    assert "3 segments are 1: 12 rows" in done.stdout
    fill(opened, simple, 1)
    assert len(rows(opened.store.root)) == 16
    assert CliRunner().invoke(command, [str(opened.store.root / "nowhere")]).exit_code == 2


def test_totals_stay_whole(opened: Opened, framer: Framer) -> None:
    two_passes(opened, framer)
    before = opened.manifest.totals()
    run(opened)
    assert Manifest.open(Store.peek(opened.store.root)).totals() == before
    assert isinstance(opened.manifest.segments()[0], SegmentRow)
    assert pa.types.is_dictionary(cfbus.open(opened.store.root).arrow()["shard"].type)
