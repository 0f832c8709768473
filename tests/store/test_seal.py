from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfbus.bus.columns import FLAGS, NO_INT, NO_SEED, Table, build
from cfbus.bus.wire import decode_table
from cfbus.core.frame import JournalFrame
from cfbus.errors import DamagedStoreError, DiskFullError
from cfbus.store import seal as seal_module
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import merge_ranges
from cfbus.store.schema import DESCRIPTIONS, SCHEMAS
from cfbus.store.seal import Sealed, record, seal_command, seal_journal, seal_order

Make = Callable[..., JournalFrame]
Row = dict[str, Any]
SLOTS = {1: ("short",), 2: ("short", "tags", "long")}


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

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
word = st.sampled_from(["", "stop", "längst", "JPEG", "nul\x00l"])
int32 = st.sampled_from([NO_INT, 0, 1, 2**31 - 1])
int64 = st.sampled_from([NO_INT, 0, 1, 2**63 - 1])
float32 = st.floats(width=32)
ITEM_COLUMNS = {
    "image_width": int32, "image_height": int32, "image_format": word, "file_size": int64,
    "image_sha256": st.sampled_from([bytes(32), bytes(range(32)), bytes(31) + b"\x01"]), "processing_ms": float32,
    "url": text, "metadata": text,
}  # fmt: skip
CAPTION_COLUMNS = {
    "caption": text, "finish_reason": word, "prompt_tokens": int32, "output_tokens": int32,
    "mean_logprob": float32, "seed": st.sampled_from([NO_SEED, -1, 0, 5]), "flags": st.integers(0, 31),
}  # fmt: skip
FAILURE_COLUMNS = {"reason": word, "fault": word, "attempts": int32, "detail": text, "who": text}


@st.composite
def frame_specs(draw: st.DrawFn) -> Row:
    """What the journal is given, in Python: a list of values for each column."""
    at = 0
    ranges: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(1, 3))):
        start = at + draw(st.integers(0 if not ranges else 1, 40))
        at = start + draw(st.integers(1, 4))
        ranges.append((start, at))
    items = sum(end - start for start, end in ranges)
    kind = draw(st.sampled_from(["captions", "captions", "failures"]))
    pass_number = draw(st.integers(1, 2))
    slots = len(SLOTS[pass_number])
    item_columns, row_columns = (ITEM_COLUMNS, CAPTION_COLUMNS) if kind == "captions" else (FAILURE_COLUMNS, {})
    columns = {name: draw(st.lists(one, min_size=items, max_size=items)) for name, one in item_columns.items()}
    for name, one in row_columns.items():
        columns[name] = draw(st.lists(one, min_size=items * slots, max_size=items * slots))
    return {
        "kind": kind, "pass": pass_number, "shard": draw(st.integers(0, 1)), "ranges": tuple(ranges), "items": items,
        "columns": columns, "mask": draw(st.none() | st.lists(st.booleans(), min_size=items, max_size=items)),
        "constants": {name: draw(word) for name in ("spec", "model", "model_revision", "engine", "worker")},
        "generation": draw(st.sampled_from(["", "7", "x", "-3", "123456789012345678"])),
        "stages": tuple(draw(word) for _ in range(slots)), "prompts": tuple(draw(word) for _ in range(slots)),
    }  # fmt: skip


def table_of(spec: Row) -> Table:
    if spec["kind"] == "failures":
        return build("failures", spec["items"], spec["columns"])
    slots = {"slot": SLOTS[spec["pass"]], "stage": spec["stages"], "prompt_id": spec["prompts"]}
    constants = {**spec["constants"], "generation": spec["generation"]}
    return build("captions", spec["items"], spec["columns"], constants, slots)


def expected_rows(frame: JournalFrame, spec: Row) -> list[Row]:
    """The rows that the frame is to become, one by one."""
    rows = []
    captions = spec["kind"] == "captions"
    slots = len(SLOTS[spec["pass"]]) if captions else 1
    for item, index in enumerate(index for start, end in spec["ranges"] for index in range(start, end)):
        if spec["mask"] is not None and not spec["mask"][item]:
            continue
        for slot in range(slots):
            row: Row = dict.fromkeys(SCHEMAS[spec["kind"]].names)
            row.update(identity(frame, index))
            values = {
                name: column[item if name in ITEM_COLUMNS or not captions else item * slots + slot]
                for name, column in spec["columns"].items()
            }
            row.update({name: None if unknown(name, value) else value for name, value in values.items()})
            if captions:
                row["flags"] = [FLAGS[bit] for bit in range(len(FLAGS)) if values["flags"] >> bit & 1]
                row.update(spec["constants"])
                row["generation"] = int(spec["generation"]) if spec["generation"].isdecimal() else None
                row.update(slot=SLOTS[spec["pass"]][slot], stage=spec["stages"][slot], prompt_id=spec["prompts"][slot])
            rows.append(row)
    return rows


def identity(frame: JournalFrame, index: int) -> Row:
    return {
        "job_id": frame.job, "dataset": "birds", "shard": f"birds-{frame.shard:05d}",
        "item_key": f"säck{frame.shard}/no\nline/{index:04d}.jpg", "filename": f"{index:04d}.jpg",
        "contributor_id": frame.contributor, "item_index": index, "revision": frame.pass_number,
        "timestamp": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=frame.received),
        "commit_seq": frame.position, "key": frame.key, "lease": frame.lease,
    }  # fmt: skip


def unknown(name: str, value: Any) -> bool:
    if name == "seed":
        return bool(value == NO_SEED)
    if isinstance(value, float):
        return math.isnan(value)
    if name in ("url", "metadata"):
        return bool(value == "")
    if name == "image_sha256":
        return bool(value == bytes(32))
    return isinstance(value, int) and value == NO_INT


def duck(path: Path) -> list[Row]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        result = connection.execute(
            "SELECT * REPLACE (epoch_us(timestamp) AS timestamp) FROM read_parquet(?)", [str(path)]
        )
        names = [column[0] for column in result.description]
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    for row in rows:
        row["timestamp"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row["timestamp"])
    return rows


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs=st.lists(frame_specs(), min_size=1, max_size=6))
def test_what_was_journalled_is_what_is_read(specs: list[Row], opener: Opener, framer: Make) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal_module, "GROUP_ROWS", 7)
        opened = opener(Path(folder) / "store")
        frames = []
        for position, spec in enumerate(specs, 1):
            mask = None if spec["mask"] is None else np.packbits(spec["mask"], bitorder="little").tobytes()
            frames.append(
                framer(
                    position, table_of(spec), spec["ranges"],
                    pass_number=spec["pass"], shard=spec["shard"], mask=mask,
                )
            )  # fmt: skip
        opened.journal.append(frames)
        closed = opened.journal.roll()
        assert closed is not None
        sealed = seal_journal(opened.store.root, closed.path)
        counts = {}
        for kind in ("captions", "failures"):
            wanted = [
                row
                for frame, spec in zip(frames, specs, strict=True)
                if spec["kind"] == kind
                for row in expected_rows(frame, spec)
            ]
            counts[kind] = len(wanted)
            path = opened.store.table_path(kind, 1)
            assert path.exists() == bool(wanted)
            if wanted:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    assert file.schema_arrow.equals(SCHEMAS[kind])
                    assert {
                        one.name: one.metadata[b"description"].decode() for one in file.schema_arrow
                    } == DESCRIPTIONS[kind]
                    assert file.read().to_pylist() == wanted
                assert duck(path) == wanted
        assert (sealed.rows, sealed.failures) == (counts["captions"], counts["failures"])
        assert (sealed.first, sealed.last) == (1, len(frames))
        assert opened.journal.failures() == counts["failures"]
        before = sorted(map(tuple, merged(opened)))
        record(opened.manifest, opened.journal, closed, sealed)
        assert sorted(map(tuple, merged(opened))) == before
        assert sum(opened.manifest.totals().values()) == counts["captions"]
        assert opened.journal.failures() == 0
        opened.close()


def merged(opened: Opened) -> list[list[int]]:
    rows: list[list[int]] = merge_ranges([*opened.manifest.done(), *opened.journal.done()]).tolist()
    return rows


def closed_file(opened: Opened, simple: Make, frames: int = 5) -> Path:
    start = opened.journal.position
    opened.journal.append([simple(start + number) for number in range(1, frames + 1)])
    closed = opened.journal.roll()
    assert closed is not None
    return closed.path


def in_child(opened: Opened, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = seal_command(opened.store.root)
    orders = b"".join(map(seal_order, paths)).decode()
    assert opened.store.lock_fd is not None
    return subprocess.run(
        command,
        input=orders,
        capture_output=True,
        text=True,
        check=False,
        pass_fds=(opened.store.lock_fd,),
        timeout=300,
    )


def test_the_child_says_what_it_made(opened: Opened, simple: Make) -> None:
    path = closed_file(opened, simple)
    child = in_child(opened, path)
    assert (child.returncode, child.stderr) == (0, "")
    fields = json.loads(child.stdout)
    sealed = Sealed(**{**fields, "files": tuple(fields["files"])})
    assert sealed.files == ("captions/0000000000000001.parquet",)
    assert (sealed.rows, sealed.failures, sealed.first, sealed.last) == (20, 0, 1, 5)
    assert sealed.bytes == (opened.store.root / sealed.files[0]).stat().st_size
    segment = record(opened.manifest, opened.journal, opened.journal.closed()[0], sealed)
    assert segment.totals == {"contributor1": 8, "contributor2": 8, "contributor0": 4}
    assert not path.exists()
    assert list(opened.store.staging_dir.iterdir()) == []
    opened.journal.close()
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert opened.journal.position == 5


def test_the_child_ends_at_what_it_cannot_seal_and_says_what_is_wrong(opened: Opened, simple: Make) -> None:
    paths = [closed_file(opened, simple), closed_file(opened, simple)]
    paths[0].write_bytes(paths[0].read_bytes()[:20_000])
    child = in_child(opened, *paths)
    assert (child.returncode, child.stdout) == (DamagedStoreError.exit_code, "")
    assert "damaged" in child.stderr
    assert not any(opened.store.table_path("captions", first).exists() for first in (1, 6))


def test_the_child_seals_one_file_after_another_as_it_would_seal_each_alone(opened: Opened, simple: Make) -> None:
    paths = [closed_file(opened, simple), closed_file(opened, simple, frames=3)]
    child = in_child(opened, *paths)
    assert (child.returncode, child.stderr) == (0, "")
    made = [json.loads(line) for line in child.stdout.splitlines()]
    assert [(one["first"], one["last"]) for one in made] == [(1, 5), (6, 8)]
    together = [opened.store.table_path("captions", first).read_bytes() for first in (1, 6)]
    for path in paths:
        in_child(opened, path)
    assert [opened.store.table_path("captions", first).read_bytes() for first in (1, 6)] == together


def test_a_crash_before_the_manifest_seals_again_to_the_same(opened: Opened, simple: Make) -> None:
    path = closed_file(opened, simple)
    sealed = seal_journal(opened.store.root, path)
    first = opened.store.table_path("captions", 1).read_bytes()
    opened.journal.close()
    opened.journal = Journal.open(opened.store, opened.manifest)
    (closed,) = opened.journal.closed()
    assert closed.path == path
    assert seal_journal(opened.store.root, path) == sealed
    assert opened.store.table_path("captions", 1).read_bytes() == first
    record(opened.manifest, opened.journal, closed, sealed)
    opened.journal.close()
    opened.journal = Journal.open(opened.store, opened.manifest)
    assert merged(opened) == [[1, 0, 0, 20]]
    assert opened.journal.totals() == {}


def test_a_segment_that_the_manifest_forgot_stops_the_writer(opened: Opened, simple: Make) -> None:
    path = closed_file(opened, simple)
    seal_journal(opened.store.root, path)
    path.unlink()
    opened.journal.close()
    with pytest.raises(DamagedStoreError, match="does not know"):
        Journal.open(opened.store, opened.manifest)


@pytest.mark.parametrize("cut", [None, 100])
def test_a_segment_that_is_gone_or_cut_stops_the_writer(opened: Opened, simple: Make, cut: int | None) -> None:
    path = closed_file(opened, simple)
    sealed = seal_journal(opened.store.root, path)
    record(opened.manifest, opened.journal, opened.journal.closed()[0], sealed)
    segment = opened.store.table_path("captions", 1)
    content = segment.read_bytes()
    segment.unlink()
    if cut:
        segment.write_bytes(content[:-cut])
    opened.journal.close()
    with pytest.raises(DamagedStoreError, match=r"gone|size"):
        Journal.open(opened.store, opened.manifest)


def test_a_result_that_is_not_of_the_journal_is_not_recorded(opened: Opened, simple: Make) -> None:
    path = closed_file(opened, simple)
    sealed = seal_journal(opened.store.root, path)
    (closed,) = opened.journal.closed()
    with pytest.raises(DamagedStoreError):
        record(opened.manifest, opened.journal, closed, Sealed(19, 0, sealed.files, sealed.bytes, 1, 5))
    assert path.exists()
    assert opened.manifest.segments() == []


def test_a_frame_that_does_not_fit_its_items_is_damage(opened: Opened, framer: Make, simple: Make) -> None:
    table = decode_table("captions", simple(1).frame)
    opened.journal.append([framer(1, table, ((0, 5),))])
    closed = opened.journal.roll()
    assert closed is not None
    with pytest.raises(DamagedStoreError, match="does not fit"):
        seal_journal(opened.store.root, closed.path)


def test_a_full_disk_leaves_the_journal_and_seals_later(opener: Opener, small_disk: Disk, simple: Make) -> None:
    opened = opener(small_disk.path / "store")
    opened.journal.append([simple(number, 64, "x" * number * 20) for number in range(1, 12)])
    closed = opened.journal.roll()
    assert closed is not None
    small_disk.fill()
    with pytest.raises(DiskFullError):
        seal_journal(opened.store.root, closed.path)
    assert in_child(opened, closed.path).returncode == DiskFullError.exit_code
    assert not opened.store.table_path("captions", 1).exists()
    small_disk.free()
    sealed = seal_journal(opened.store.root, closed.path)
    assert sealed.rows == 64 * 11
    record(opened.manifest, opened.journal, closed, sealed)
    opened.close()


def test_every_column_is_described() -> None:
    for table, schema in SCHEMAS.items():
        assert list(DESCRIPTIONS[table]) == schema.names
        for field in schema:
            text = DESCRIPTIONS[table][field.name]
            assert text.endswith(".")
            assert field.metadata == {b"description": text.encode()}


NAMES = """
    job_id dataset shard item_key caption contributor_id timestamp quality_score item_index slot stage prompt_id
    variant revision commit_seq spec model model_revision engine finish_reason prompt_tokens output_tokens
    mean_logprob seed worker key lease flags check_state image_width image_height image_format file_size
    image_sha256 url filename processing_ms generation metadata
"""


def test_the_names_that_people_know_come_first() -> None:
    assert " ".join(SCHEMAS["captions"].names) == " ".join(NAMES.split())
    assert SCHEMAS["jobs"].names[:6] == ["job_id", "dataset", "shard", "status", "assigned_to", "timestamp"]
    assert SCHEMAS["contributors"].names == ["contributor_id", "name", "total_captions", "trust_level"]


def test_sealing_starts_without_what_it_does_not_need() -> None:
    program = "import sys, cfbus.store.seal; print(sorted({'zmq', 'PIL', 'duckdb', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_child_makes_its_arrays_without_pandas(
    opened: Opened, simple: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "pandas.py").write_text("raise SystemExit('pandas was imported')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "aside"))
    child = in_child(opened, closed_file(opened, simple))
    assert (child.returncode, child.stderr) == (0, "")
