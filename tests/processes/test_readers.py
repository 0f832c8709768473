"""Four libraries read the table while it is written: by a glob, and by the manifest."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from processes.support import Nursery, Run, until
from processes.tables import failures

import cfbus

ITEMS = 6000
SLOTS = ("short", "tags")
LOOKS = 3
"""So many different states of an unfinished table each reader has to see."""
Reader = Callable[[Path], pa.Table]


def glob_arrow(out: Path) -> pa.Table:
    return ds.dataset(out / "captions", format="parquet").to_table()


def glob_duckdb(out: Path) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.sql(f"select * from '{out}/captions/*.parquet'").to_arrow_table()


def glob_polars(out: Path) -> pa.Table:
    return pl.scan_parquet(f"{out}/captions/*.parquet").collect().to_arrow()


def glob_huggingface(out: Path) -> pa.Table:
    import datasets

    files = f"{out}/captions/*.parquet"
    return datasets.load_dataset("parquet", data_files=files, split="train").with_format("arrow")[:]


def manifest_arrow(out: Path) -> pa.Table:
    return cfbus.open(out).arrow()


def manifest_duckdb(out: Path) -> pa.Table:
    with duckdb.connect() as connection:
        return cfbus.open(out).duckdb(connection).to_arrow_table()


def manifest_polars(out: Path) -> pa.Table:
    return cfbus.open(out).polars().collect().to_arrow()


def manifest_huggingface(out: Path) -> pa.Table:
    return cfbus.open(out).huggingface().with_format("arrow")[:]


@dataclass
class Watcher:
    """One way of reading, and what it has seen."""

    read: Reader
    schema: pa.Schema | None = None
    count: int = 0
    states: int = 0

    def look(self, out: Path) -> None:
        """Read all of it: nothing twice, nothing gone that was there, columns as ever."""
        table = self.read(out)
        name = self.read.__name__
        schema = table.schema.remove_metadata()
        assert schema == (self.schema or schema), name
        self.schema = schema
        keys = set(zip(*(table[column].to_pylist() for column in ("shard", "item_index", "slot")), strict=True))
        assert len(keys) == table.num_rows, f"{name}: {table.num_rows - len(keys)} doubled rows"
        assert table.num_rows >= self.count, f"{name}: {self.count} rows, then {table.num_rows}"
        self.states += table.num_rows > self.count
        self.count = table.num_rows


READERS: list[Reader] = [
    glob_arrow, glob_duckdb, glob_polars, glob_huggingface,
    manifest_arrow, manifest_duckdb, manifest_polars, manifest_huggingface,
]  # fmt: skip


def start(nursery: Nursery, out: Path, rate: int) -> Run:
    settings = (
        "dataset.source=scripted", f"dataset.items={ITEMS}", f"captions.scripted.rate={rate}",
        "captions.scripted.failures=0.01", "captions.scripted.length=50", "storage.seal_seconds=1",
        "worker.concurrency=16",
    )  # fmt: skip
    flags = [word for setting in settings for word in ("--set", setting)]
    slots = [word for slot in SLOTS for word in ("--slot", f"{slot}=x")]
    return Run(nursery, out, "--engine", "scripted", "--workers", "2", *slots, *flags)


def test_a_table_is_read_by_all_while_it_is_written(nursery: Nursery, tmp_path: Path) -> None:
    out = tmp_path / "out"
    watchers = [Watcher(read) for read in READERS]

    def all_look() -> None:
        for watcher in watchers:
            watcher.look(out)
        names = [path.name for table in ("captions", "failures") for path in (out / table).iterdir()]
        assert [name for name in names if not re.fullmatch(r"\d{16}\.parquet", name)] == []
        half = len(READERS) // 2
        for by_glob, by_manifest in zip(watchers[:half], watchers[half:], strict=True):
            assert by_glob.schema == by_manifest.schema

    # So slow that it cannot end before each reader has seen it grow.
    run = start(nursery, out, 20)
    until("a first segment", lambda: (out / "captions").is_dir() and list((out / "captions").glob("*.parquet")))

    def seen_enough() -> bool:
        assert run.command.process.poll() is None, run.command.said
        all_look()
        return all(watcher.states >= LOOKS for watcher in watchers)

    until(lambda: f"each reader has seen {LOOKS} states: {watchers}", seen_enough, 240)
    assert max(watcher.count for watcher in watchers) < ITEMS
    run.command.signal(signal.SIGINT)
    run.command.ends(130)

    run = start(nursery, out, 400)
    while run.command.process.poll() is None:
        all_look()
    run.command.ends(3)
    all_look()
    dead = {str(row["item_key"]) for row in failures(out)}
    whole = (ITEMS - len(dead)) * len(SLOTS)
    assert {watcher.count for watcher in watchers} == {whole}
    assert dead
    view = cfbus.open(out)
    assert (view.rows, view.failures.rows, len(view.files())) == (
        whole,
        len(dead),
        len(list((out / "captions").iterdir())),
    )
    assert not list((out / "manifest.sqlite").parent.glob("manifest.sqlite-*")), "readers left something behind"
