"""`cfbus-top`'s screen against stored ones, and its invariants on hostile snapshots.

After a wanted change: ``UPDATE_SCREENS=1 .venv/bin/python -m pytest tests/tools/test_top_screen.py``, then look at the
difference.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from top_rig import LIVE, NOW, SEEN, status, worker

from cfbus.core.snapshot import Activity, Happening, WorkersPage
from cfbus.tools.top_screen import render
from cfbus.tools.top_state import Seen, Snapshot, View

SCREENS = Path(__file__).parent / "screens"
HOSTILE = "\x1b]52;c;aGk=\x07[bold]a\u202eb\nc\U0001f600\u4e16\u754c"


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def text_of(snapshot: Snapshot, width: int, height: int) -> str:
    return "\n".join(line.plain.rstrip() for line in render(snapshot, width, height)) + "\n"


STORED = {
    "80x24": (LIVE, 80, 24),
    "120x36": (LIVE, 120, 36),
    "200x50": (LIVE, 200, 50),
    "help-80x24": (replace(LIVE, view=View(help=True)), 80, 24),
    "worker-80x24": (replace(LIVE, view=View(detail=True, filter="rig-a")), 80, 24),
    "contributors-80x24": (replace(LIVE, view=View(panel="contributors")), 80, 24),
    "activity-filtered-80x24": (replace(LIVE, view=View(panel="activity", filter="ada", typing=True)), 80, 24),
    "small-20x6": (LIVE, 20, 6),
}


@pytest.mark.parametrize("name", STORED)
def test_screens_are_as_stored(name: str) -> None:
    shown = text_of(*STORED[name])
    stored = SCREENS / f"{name}.txt"
    if os.environ.get("UPDATE_SCREENS"):
        stored.write_text(shown, encoding="utf-8")
    assert shown == stored.read_text(encoding="utf-8")


def first_line(**given: object) -> str:
    seen = replace(SEEN, status=status(**given))
    return render(replace(LIVE, seen=seen), 100, 24)[0].plain


def test_lost_idle_paused_and_working_look_different() -> None:
    lost = render(replace(LIVE, now=NOW + 30), 100, 24)[0].plain
    never = render(replace(LIVE, seen=Seen()), 100, 24)[0].plain
    lines = [
        lost, never, first_line(), first_line(paused=True, why="paused"), first_line(why="finished", finished=True),
        first_line(workers=0), first_line(why="writer-away"), first_line(why="writer-disk-full"),
        first_line(problem="The lister died."), first_line(why="no-pass-yet"),
    ]  # fmt: skip
    assert len(set(lines)) == len(lines)
    for line, word in zip(lines, ("LOST", "connecting", "captioning", "PAUSED", "finished", "no worker"), strict=False):
        assert word in line


def test_a_screen_that_is_frozen_says_so() -> None:
    assert "FROZEN" in render(replace(LIVE, view=View(paused=True)), 80, 24)[0].plain


hostile = st.sampled_from(["", "a" * 300, HOSTILE, "\u4e16" * 40, "\x9b31m", "e\u0301" * 30]) | st.text(max_size=30)
numbers = st.sampled_from([0, 1, 999, 10**6, 2**53])


@given(
    hostile,
    hostile,
    numbers,
    st.integers(1, 220),
    st.integers(1, 60),
    st.sampled_from(["help", "detail", "", "typing"]),
)
def test_whatever_it_shows_fits_and_is_harmless(
    name: str, job: str, number: int, width: int, height: int, mode: str
) -> None:
    seen = SEEN.after(status(dataset=name, problem=job[:1], items=number, done=number // 2, rate=float(number)), NOW)
    one = worker(name, contributor=job, job=job, rate=float(number), in_flight=number, items=number)
    seen = seen.after(WorkersPage(first=0, total=1, workers=(one,)), NOW)
    event = Happening(at=0.0, event=name, facts=((job, name),))
    seen = seen.after(Activity(events=(event,) * 60), NOW)
    view = View(
        filter=name[:40] if mode == "typing" else "",
        help=mode == "help",
        detail=mode == "detail",
        typing=mode == "typing",
    )
    lines = render(replace(LIVE, seen=seen, view=view), width, height)
    assert len(lines) == height
    for line in lines:
        assert cell_len(line.plain) <= width
        assert line.plain.isprintable()


def test_the_selected_worker_is_always_in_sight() -> None:
    many = tuple(worker(f"w{number:04d}") for number in range(1000))
    seen = SEEN
    for first in range(0, 1000, 16):
        seen = seen.after(WorkersPage(first=first, total=1000, workers=many[first : first + 16]), NOW)
    for selected in (0, 5, 500, 999, 5000):
        snapshot = replace(LIVE, seen=seen, view=View(sort="name", selected=selected))
        marked = [
            line for line in render(snapshot, 100, 30) if any("reverse" in str(span.style) for span in line.spans)
        ]
        assert [line.plain.split()[0] for line in marked] == [f"w{min(selected, 999):04d}"]
