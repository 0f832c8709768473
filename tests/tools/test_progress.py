"""The bar and its lines: what they say of a status, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from snapshots import a_status

from cfbus.tools import progress
from cfbus.tools.progress import Progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90_000, "1 d 1 h"), (10**7, "115 d 17 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"done": 250, "rate": 12.5}, "250 of 1,000 images done, 12.5/s, 1:00 left"),
        ({"done": 250, "rate": 1234.5}, "250 of 1,000 images done, 1,234/s, 0:01 left"),
        (
            {"done": 250, "rate": 12.5, "listing": True},
            "250 of 1,000 images done, 12.5/s, listing: 1,000 images so far",
        ),
        ({"items": 0, "listing": True, "why": "writer-away"}, "waiting for the writer, listing the images"),
        ({"workers": 0}, "0 of 1,000 images done, waiting for a worker"),
        ({"done": 9, "dead_letters": 2}, "9 of 1,000 images done, 2 failed"),
        ({"done": 1000, "rate": 50.0, "why": "finished"}, "1,000 of 1,000 images done, sealing"),
        ({"why": "brand-new-reason"}, "0 of 1,000 images done, brand-new-reason"),
    ],
)
def test_a_line_says_all_of_it(facts: dict[str, object], line: str) -> None:
    assert progress.line(a_status(**facts)) == line


def test_a_full_disk_is_said_aloud_and_without_a_rate() -> None:
    said = progress.line(a_status(done=9, rate=12.0, why="writer-disk-full"))
    assert "THE DISK IS FULL: make room" in said
    assert "/s" not in said
    assert "left" not in said


def test_elsewhere_than_on_a_terminal_there_is_a_line_now_and_then() -> None:
    said, clock = io.StringIO(), [100.0]
    with Progress(Console(file=said, width=80, soft_wrap=True), "pictures", lambda: clock[0]) as shown:
        for second in range(21):
            clock[0] = 100.0 + second
            shown.show(a_status(done=second))
    assert said.getvalue().splitlines() == [f"{second} of 1,000 images done" for second in (0, 5, 10, 15, 20)]


def test_a_new_reason_is_told_at_once() -> None:
    said, clock = io.StringIO(), [100.0]
    with Progress(Console(file=said, width=80, soft_wrap=True), "pictures", lambda: clock[0]) as shown:
        for why in ("", "", "writer-disk-full", "writer-disk-full", ""):
            clock[0] += 0.5
            shown.show(a_status(why=why))
    assert ["FULL" in line for line in said.getvalue().splitlines()] == [False, True, False]


def test_on_a_terminal_there_is_a_bar_that_leaves_nothing_behind() -> None:
    said = io.StringIO()
    console = Console(file=said, width=80, height=24, force_terminal=True, color_system=None, _environ={})
    with Progress(console, "[red]pic\x1b[31mtures") as shown:
        shown.show(a_status(done=500, rate=10.0, dead_letters=1))
        shown.say("gpu-0 was killed [by] signal 9")
        shown._bar.refresh()
    text = said.getvalue()
    assert "500/1,000 10.0/s, 0:50 left 1 failed" in text
    assert "gpu-0 was killed [by] signal 9" in text
    assert r"[red]pic\x1b[31m" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
    assert text.rindex("\x1b[2K") > text.rindex("500/1,000"), "the bar is wiped away"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_bar_fits_the_screen(width: int) -> None:
    said = io.StringIO()
    console = Console(file=said, width=width, height=24, force_terminal=True, color_system=None, _environ={})
    status = a_status(
        items=10**9, done=999_999_999, rate=99_999.9, dead_letters=12_345, why="writer-disk-full", listing=True
    )
    with Progress(console, "a rather long name for a dataset") as shown:
        shown.show(status)
        shown._bar.refresh()
        lines = console.render_lines(shown._bar.get_renderable(), pad=False)
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)
