"""The last lines of a run: true, whole, and with the exit code that says the same."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import SegmentRow, Tombstone, merge_ranges
from cfbus.store.schema import SCHEMAS
from cfbus.store.tombstones import NO_END
from cfbus.tools import report
from cfbus.tools.report import Report


def shown(given: Report) -> tuple[int, str]:
    said = io.StringIO()
    code = report.show(given, Console(file=said, width=80, soft_wrap=True, highlight=False))
    return code, said.getvalue()


def dead_letters(out: Path, count: int) -> None:
    """A store with a segment of so many."""
    rows: dict[str, list[object]] = {
        "item_key": [f"{number}.jpg" for number in range(count)],
        "item_index": list(range(count)),
        "commit_seq": [1] * count,
        "detail": ["cut\x1b[31m off" if number % 2 else None for number in range(count)],
        "reason": ["truncated"] * count,
    }
    schema = SCHEMAS["failures"]
    columns = [
        pa.array(rows.get(one.name, [None] * count), getattr(one.type, "value_type", one.type)).cast(one.type)
        for one in schema
    ]
    with Store.open(out, "pictures", create=True) as store, closing(Manifest.open(store)) as manifest:
        path = store.table_path("failures", 1)
        pq.write_table(pa.table(columns, schema=schema), path)
        manifest.add_pass(["short"])
        name = str(path.relative_to(out))
        row = SegmentRow(1, 1, (name,), 0, count, path.stat().st_size, 1, {})
        manifest.add_segment(row, merge_ranges([(1, 0, 0, count)]))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((13, 0, 26, 4.25), "26 captions written in 4.2 s; pictures has 13 images."),
        ((1, 0, 1, 61.0), "1 caption written in 1:01; pictures has 1 image."),
        ((1000, 0, None, 0.0), "Nothing to do: all 1,000 images of pictures are captioned."),
        ((10, 4, None, 0.0), "Nothing to do: all 10 images of pictures are captioned but 4 that could not be."),
    ],
)
def test_the_first_line_says_what_was_done(given: tuple[int, int, int | None, float], line: str) -> None:
    images, dead, captions, seconds = given
    assert report.opening(Report(Path("out"), "pictures", images, dead, captions, seconds)) == line


def test_all_went_well(tmp_path: Path) -> None:
    code, said = shown(Report(tmp_path, "pictures", 10, 0, 20, 1.0))
    assert code == 0
    assert f"{tmp_path}/captions/*.parquet" in said
    assert "failures" not in said


def test_some_dead_letters_are_named_and_all_can_be_found(tmp_path: Path) -> None:
    dead_letters(tmp_path, 2)
    code, said = shown(Report(tmp_path, "[b]pictures", 10, 2, 8, 1.0))
    assert code == 3
    assert "2 images could not be captioned" in said
    assert "  0.jpg: truncated\n" in said
    assert r"  1.jpg: cut\x1b[31m off" in said
    assert f"{tmp_path}/failures/*.parquet" in said
    assert "[b]pictures" in said
    assert "…" not in said


def test_many_dead_letters_do_not_fill_the_screen(tmp_path: Path) -> None:
    dead_letters(tmp_path, 500)
    _, said = shown(Report(tmp_path, "pictures", 1000, 500, 500, 1.0))
    assert said.count("truncated") + said.count("cut") == report.SHOWN_FAILURES
    assert "  …\n" in said


def test_a_dead_letter_that_was_reopened_is_not_named(tmp_path: Path) -> None:
    dead_letters(tmp_path, 2)
    assert len(report.failures(tmp_path, 9)) == 2
    with Store.open(tmp_path, "pictures", create=False) as store, closing(Manifest.open(store)) as manifest:
        manifest.amend([], Tombstone(1, (("item_key", "0.jpg"),), ("failures",), NO_END, 0, "reopen", "mia", "7", 1))
    assert [key for key, _ in report.failures(tmp_path, 9)] == ["1.jpg"]
