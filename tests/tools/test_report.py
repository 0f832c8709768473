"""The last lines of a run: true, whole, and with the exit code that says the same."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cfbus.tools import report
from cfbus.tools.report import Report


def shown(given: Report) -> tuple[int, str]:
    said = io.StringIO()
    code = report.show(given, Console(file=said, width=80, soft_wrap=True, highlight=False))
    return code, said.getvalue()


def dead_letters(out: Path, count: int) -> None:
    (out / "failures").mkdir()
    rows = {
        "item_key": [f"{number}.jpg" for number in range(count)],
        "detail": ["cut\x1b[31m off" if number % 2 else None for number in range(count)],
        "reason": ["truncated"] * count,
    }
    pq.write_table(pa.table(rows), out / "failures" / "0.parquet")


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
