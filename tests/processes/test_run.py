"""`cfbus run`: from folders to tables, again and again."""

from __future__ import annotations

import signal
from pathlib import Path

import duckdb
from processes.support import Nursery, Run, until
from processes.tables import (
    exact_pictures,
    exact_scripted,
    failures,
    journal_bytes,
    make_pictures,
    sealed_bytes,
)

SLOTS = ("short", "long")
FLAGS = ("--slot", "short=Describe this image in one short sentence.", "--slot", "long=Describe this image in detail.")


def test_a_folder_becomes_a_table_and_only_what_is_new_is_captioned_later(nursery: Nursery, tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    make_pictures(pictures, 0, 200)
    said = Run(nursery, out, pictures, *FLAGS, "--workers", "2").command.ends(0)
    assert "400 captions written" in said
    first = exact_pictures(out, pictures, SLOTS)
    segments = sealed_bytes(out)
    logs = {path: path.stat().st_size for path in (out / "run" / "logs").iterdir()}

    said = Run(nursery, out, pictures, *FLAGS).command.ends(0)
    assert "Nothing to do: all 200 images of pictures are captioned." in said
    # No daemon was started for it.
    assert {path: path.stat().st_size for path in (out / "run" / "logs").iterdir()} == logs

    make_pictures(pictures, 200, 7)
    # The folder and the slots are remembered.
    said = Run(nursery, out).command.ends(0)
    assert "14 captions written" in said
    again = exact_pictures(out, pictures, SLOTS)
    assert set(first) < set(again)
    assert segments.items() < sealed_bytes(out).items()
    query = f"select count(*), count(distinct (item_key, slot)), min(length(caption)) from '{out}/captions/*.parquet'"
    [(all_rows, distinct, shortest)] = duckdb.connect().execute(query).fetchall()
    assert (all_rows, distinct) == (414, 414)
    assert shortest > 10


def test_dead_letters_have_their_reasons_and_an_exit_code(nursery: Nursery, tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    make_pictures(pictures, 0, 30)
    whole = (pictures / "00001.jpg").read_bytes()
    bad = {"cut.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "words.jpg": b"no picture at all\n" * 40}
    for name, data in bad.items():
        (pictures / name).write_bytes(data)
    said = Run(nursery, out, pictures, *FLAGS).command.ends(3)
    told = "3 images could not be captioned"
    assert told in said
    exact_pictures(out, pictures, SLOTS, without=bad)
    found = {str(row["item_key"]): row for row in failures(out)}
    assert set(found) == set(bad)
    assert len(failures(out)) == 3
    for row in found.values():
        assert row["fault"] == "item"
        assert row["attempts"] == 3
        assert row["reason"]
        assert row["detail"]
    assert len({row["reason"] for row in found.values()}) > 1

    again = Run(nursery, out, pictures, *FLAGS).command.ends(3)
    assert "Nothing to do" in again
    assert said[said.index(told) :] == again[again.index(told) :]
    assert len(failures(out)) == 3


def test_a_second_run_waits_for_the_first(nursery: Nursery, tmp_path: Path) -> None:
    out, items = tmp_path / "out", 3000

    def run(rate: int, *more: str) -> Run:
        settings = ("dataset.source=scripted", f"dataset.items={items}", f"captions.scripted.rate={rate}")
        flags = [word for setting in settings for word in ("--set", setting)]
        return Run(nursery, out, "--engine", "scripted", "--workers", "1", *flags, *more)

    first = run(50)
    until("some of it is durable", lambda: journal_bytes(out) > 50_000)
    hasty, *patient = run(50, "--wait", "0.5"), run(5000), run(5000)
    said = hasty.command.ends(75)
    assert "Waiting for the processes of another run" in said
    assert "Another run is at work" in said
    for each in patient:
        each.command.says("Waiting for the processes of another run")
    assert first.command.process.poll() is None
    first.command.signal(signal.SIGINT)
    first.command.ends(130)
    # One of them goes on where the first stopped, and leaves nothing to the other.
    ends = [each.command.ends(0) for each in patient]
    assert sum("captions written" in said for said in ends) == 1
    assert sum(f"Nothing to do: all {items:,} images of scripted are captioned." in said for said in ends) == 1
    exact_scripted(out, items, ["caption"])
