"""`cfbus.open`: what it shows in each library, of stores made by hand, and what it says of those that are none."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import cfbus
from cfbus.bus.columns import Table, build
from cfbus.core.frame import JournalFrame
from cfbus.errors import DamagedStoreError, StoreMismatchError, UsageError
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest
from cfbus.store.schema import SCHEMAS
from cfbus.store.seal import record, seal_journal
from cfbus.store.snapshots import write_contributors
from cfbus.store.view import View

Key = tuple[str, int, str, int]
Framer = Callable[..., JournalFrame]


class Opened(Protocol):
    store: Store
    manifest: Manifest
    journal: Journal


def of_arrow(view: View) -> pa.Table:
    return view.arrow()


def of_duckdb(view: View) -> pa.Table:
    with duckdb.connect() as connection:
        return view.duckdb(connection).to_arrow_table()


def of_polars(view: View) -> pa.Table:
    return view.polars().collect().to_arrow()


def of_huggingface(view: View) -> pa.Table:
    return view.huggingface().with_format("arrow")[:]


READERS = [of_arrow, of_duckdb, of_polars, of_huggingface]
readers = pytest.mark.parametrize("read", READERS)
Read = Callable[[View], pa.Table]


def keys(table: pa.Table) -> list[Key]:
    columns = [table[name].to_pylist() for name in ("shard", "item_index", "slot", "revision")]
    return sorted(zip(*columns, strict=True))


def slots_table(items: int, slots: tuple[str, ...], text: str) -> Table:
    """Captions of these slots, all saying the same."""
    rows = items * len(slots)
    item_columns: dict[str, list[object]] = {
        "image_width": [64] * items, "image_height": [48] * items, "image_format": ["JPEG"] * items,
        "file_size": [1000] * items, "image_sha256": [bytes(range(32))] * items, "processing_ms": [1.5] * items,
        "url": [""] * items, "metadata": [""] * items,
    }  # fmt: skip
    row_columns: dict[str, list[object]] = {
        "caption": [text] * rows, "finish_reason": ["stop"] * rows, "prompt_tokens": [3] * rows,
        "output_tokens": [4] * rows, "mean_logprob": [-0.5] * rows, "seed": [7] * rows, "flags": [1] * rows,
    }  # fmt: skip
    constants = dict.fromkeys(("spec", "model", "model_revision", "engine", "worker"), "x") | {"generation": "1"}
    same = ("x",) * len(slots)
    words = {"slot": slots, "stage": same, "prompt_id": same}
    return build("captions", items, item_columns | row_columns, constants, words)


def failures_table(items: int) -> Table:
    words = {"reason": "empty", "fault": "item", "attempts": 3, "detail": "no", "who": "ann"}
    return build("failures", items, {name: [value] * items for name, value in words.items()})


def seal(opened: Opened, *frames: JournalFrame) -> None:
    opened.journal.append([replace(frame, position=opened.journal.position + 1 + n) for n, frame in enumerate(frames)])
    closed = opened.journal.roll()
    assert closed is not None
    record(opened.manifest, opened.journal, closed, seal_journal(opened.store.root, closed.path))


@pytest.fixture
def redone(opened: Opened, framer: Framer) -> Opened:
    """Pass 1 wrote "short" of all, pass 2 wrote it again of some and "tags" too, and could not of one item."""
    slots = {1: ("short",), 2: ("short", "tags", "long"), 3: ("short",)}
    assert opened.manifest.add_pass(slots[3]) == 3

    def frame(number: int, start: int, end: int, shard: int = 0) -> JournalFrame:
        table = slots_table(end - start, slots[number], f"pass {number}")
        return framer(1, table, ((start, end),), pass_number=number, shard=shard)

    seal(opened, frame(1, 0, 20), frame(1, 0, 5, shard=1))
    failed = framer(1, failures_table(1), ((12, 13),), pass_number=2)
    seal(opened, frame(2, 5, 10), failed, frame(2, 2, 3, shard=1))
    seal(opened, frame(3, 8, 9), framer(1, failures_table(1), ((12, 13),), pass_number=3))
    return opened


def newest_of_redone() -> set[Key]:
    rows = {("birds-00000", item, "short"): 1 for item in range(20)}
    rows |= {("birds-00001", item, "short"): 1 for item in range(5)}
    again = [*(("birds-00000", item) for item in range(5, 10)), ("birds-00001", 2)]
    rows |= {(*place, slot): 2 for place in again for slot in ("short", "tags", "long")}
    rows["birds-00000", 8, "short"] = 3
    return {(*key, revision) for key, revision in rows.items()}


@readers
def test_the_highest_revision_counts(redone: Opened, read: Read) -> None:
    table = read(cfbus.open(redone.store.root))
    assert table.column_names == SCHEMAS["captions"].names
    assert keys(table) == sorted(newest_of_redone())
    for text, revision in zip(table["caption"].to_pylist(), table["revision"].to_pylist(), strict=True):
        assert text == f"pass {revision}"
    dead = cfbus.open(redone.store.root).failures
    assert [(row["item_index"], row["revision"]) for row in read(dead).to_pylist()] == [(12, 3)]


@readers
def test_all_revisions_when_asked(redone: Opened, read: Read) -> None:
    view = cfbus.open(redone.store.root, latest=False)
    assert view.rows == 20 + 5 + 15 + 3 + 1
    assert len(keys(read(view))) == view.rows
    assert read(view.failures).num_rows == view.failures.rows == 2


@pytest.mark.parametrize(("slots", "meet"), [(("tags", "long"), False), (("tags", "short"), True)])
def test_only_where_passes_share_a_slot_rows_are_compared(tmp_path: Path, slots: tuple[str, ...], meet: bool) -> None:
    with Store.open(tmp_path / "store", "birds", create=True) as store:
        manifest = Manifest.open(store)
        manifest.add_pass(["short"])
        manifest.add_pass(slots)
        manifest.close()
        assert bool(cfbus.open(store.root)._meeting_keys()) == meet
        assert cfbus.open(store.root, latest=False)._meeting_keys() == []


@readers
@pytest.mark.parametrize("table", ["captions", "failures", "jobs", "contributors"])
def test_an_empty_table_has_all_columns_in_each_library(opened: Opened, framer: Framer, read: Read, table: str) -> None:
    def view() -> View:
        found = cfbus.open(opened.store.root)
        return found if table == "captions" else getattr(found, table)

    empty = view()
    assert (empty.files(), empty.rows) == ([], 0 if table in ("captions", "failures") else None)
    nothing = read(empty)
    assert (nothing.num_rows, nothing.column_names) == (0, SCHEMAS[table].names)
    if table in ("captions", "failures"):
        seal(opened, framer(1, slots_table(4, ("short",), "x"), ((0, 4),)), framer(1, failures_table(2), ((4, 6),)))
    elif table == "contributors":
        write_contributors(
            opened.store, build("contributors", 0, {"contributor_id": [], "name": [], "trust_level": []}), {"ann": 3}
        )
    else:
        return
    later = read(view())
    assert later.num_rows > 0
    assert later.schema.remove_metadata() == nothing.schema.remove_metadata()
    assert read(empty).num_rows == 0, "a view never changes"


def test_a_store_that_has_just_been_made(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", "birds", create=True) as store:
        assert cfbus.open(store.root).arrow().num_rows == 0
        store.manifest_path.touch()
        assert cfbus.open(store.root).arrow().schema == SCHEMAS["captions"]


def test_columns_and_rows_that_are_asked_for(redone: Opened) -> None:
    view = cfbus.open(redone.store.root)
    table = view.arrow(columns=["caption"], filter=pc.field("slot") == "tags")
    assert table.to_pydict() == {"caption": ["pass 2"] * 6}
    assert view.dataset().count_rows() == len(newest_of_redone())
    relation = view.duckdb()  # noqa: F841 - duckdb finds it by its name
    counted = duckdb.sql("select count(*) from relation where slot = 'short'")
    assert counted is not None
    assert counted.fetchall() == [(25,)]
    assert "captions of" in repr(view)
    assert f"{view.rows:,} rows, position 7" in repr(view)


@readers
def test_a_folder_with_an_odd_name(redone: Opened, tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a=1" / "[b] *?' ü % #"
    shutil.copytree(redone.store.root, odd / "store")
    assert keys(read(cfbus.open(odd / "store"))) == sorted(newest_of_redone())
    monkeypatch.chdir(odd)
    assert keys(read(cfbus.open("store"))) == sorted(newest_of_redone())


def test_files_that_are_not_in_the_manifest_are_not_read(redone: Opened) -> None:
    [first, *_] = cfbus.open(redone.store.root).files()
    shutil.copy(first, Path(first).with_name("9999999999999999.parquet"))
    assert len(cfbus.open(redone.store.root).files()) == 3


# What is no store, or not all of it


def test_no_store(tmp_path: Path, redone: Opened) -> None:
    for path in (tmp_path / "nowhere", tmp_path, Path(__file__)):
        with pytest.raises(UsageError, match="There is no store at"):
            cfbus.open(path)
    with pytest.raises(UsageError, match=f"There is one at {redone.store.root}"):
        cfbus.open(redone.store.root / "captions")
    redone.store.root.rename(tmp_path / "captions")
    with pytest.raises(UsageError, match=f"There is one at {tmp_path / 'captions'}"):
        cfbus.open(tmp_path)


def test_a_newer_format(redone: Opened) -> None:
    with sqlite3.connect(redone.store.manifest_path) as manifest:
        manifest.execute("PRAGMA user_version = 9")
    manifest.close()
    with pytest.raises(StoreMismatchError, match="newer cfbus"):
        cfbus.open(redone.store.root)
    identity = redone.store.root / "store.json"
    identity.write_text(json.dumps(json.loads(identity.read_text()) | {"format": 9}))
    with pytest.raises(StoreMismatchError, match="format 9"):
        cfbus.open(redone.store.root)


def test_what_was_sealed_and_is_not_there(redone: Opened) -> None:
    [first, *_] = cfbus.open(redone.store.root).files()
    with open(first, "ab") as file:
        file.write(b"x")
    with pytest.raises(DamagedStoreError, match="not the size"):
        cfbus.open(redone.store.root)
    Path(first).unlink()
    with pytest.raises(DamagedStoreError, match="it is gone, though it was sealed"):
        cfbus.open(redone.store.root)


def test_an_empty_manifest_beside_segments(redone: Opened, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(redone.store.root, copy, ignore=shutil.ignore_patterns("manifest.sqlite*"))
    for _ in range(2):
        with pytest.raises(DamagedStoreError, match="it is empty, though there are segments"):
            cfbus.open(copy)
        (copy / "manifest.sqlite").touch()


@pytest.mark.parametrize("name", ["../other/captions/1.parquet", "captions/../../1.parquet", "/etc/passwd", "captions"])
def test_a_manifest_of_a_stranger_opens_nothing_outside(redone: Opened, name: str) -> None:
    manifest = redone.manifest
    row = replace(manifest.segments()[-1], first=100, last=100, files=(name,), size=0)
    manifest.add_segment(row, pa.array([]).to_numpy(zero_copy_only=False).reshape(-1, 4))
    with pytest.raises(DamagedStoreError, match=r"no segment|is gone|not the size|Is a directory"):
        cfbus.open(redone.store.root)


@pytest.mark.parametrize(
    ("library", "read"), [("duckdb", View.duckdb), ("polars", View.polars), ("datasets", View.huggingface)]
)
def test_a_library_that_is_not_installed(
    redone: Opened, library: str, read: Callable[[View], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = cfbus.open(redone.store.root)
    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(library), *sys.meta_path])
    with pytest.raises(UsageError) as caught:
        read(view)
    assert f"with {library} needs that library" in caught.value.message
    assert caught.value.hint == f"pip install {library}"


class Missing:
    """An import of this name fails as one of a library that is not there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self._name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_reader_beside_an_open_manifest_sees_what_comes(opened: Opened, framer: Framer) -> None:
    view = cfbus.open(opened.store.root)
    before: Mapping[str, Any] = {"rows": view.rows, "position": view.position}
    seal(opened, framer(1, slots_table(4, ("short",), "x"), ((0, 4),)))
    assert before == {"rows": view.rows, "position": view.position}
    assert (view.refresh().rows, view.refresh().position) == (4, 1)
    assert view.refresh().failures.refresh().table == "failures"
