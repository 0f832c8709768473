"""`cfbus-top` in a real terminal (tmux), on a real broker; and where there is no terminal, or no right to watch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes.support import PATIENCE_SECONDS, Command, Nursery, Terminals, until
from processes.tmux import Tmux

SCRIPTED = (
    "dataset.source=scripted",
    "dataset.items=100000",
    "captions.engine=scripted",
    "captions.scripted.rate=300",
)


@pytest.fixture
def bus(nursery: Nursery, tmp_path: Path) -> Terminals:
    return Terminals(nursery, tmp_path / "bus", *SCRIPTED)


def top(bus: Terminals, *more: str) -> list[str]:
    return [sys.executable, "-m", "cfbus.tools.top", "--config", str(bus.config), "--stats", bus.stats, *more]


def all_of(bus: Terminals) -> list[Command]:
    return [bus.start(role) for role in ("broker", "writer", "gpu-0")]


def end(daemons: list[Command]) -> None:
    for daemon in reversed(daemons):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_a_person_watches_looks_around_and_leaves(bus: Terminals, tmux: Tmux, tmp_path: Path) -> None:
    daemons = all_of(bus)
    before, after = tmp_path / "before", tmp_path / "after"
    tmux.type(f"stty -a > {before}; {' '.join(top(bus))}; echo left with $?; stty -a > {after}; echo saved with $?")
    tmux.press("Enter")
    tmux.shows("● captioning")
    tmux.shows("Quality since")
    tmux.press("?")
    tmux.shows("freeze the screen")
    tmux.press("x", "Enter")
    tmux.shows("unacknowledged")
    tmux.press("Escape", "/", "n", "o", "b", "o", "d", "y")
    tmux.shows("no worker matches 'nobody'")
    tmux.press("Escape", "p")
    tmux.shows("FROZEN")
    tmux.press("p")
    bus.admin("pause")
    tmux.shows("PAUSED")
    bus.admin("resume")
    tmux.resize(20, 8)
    tmux.shows("60 by 12 shows more")
    tmux.resize(100, 30)
    daemons[0].signal(signal.SIGSTOP)
    tmux.shows("LOST")
    daemons[0].signal(signal.SIGCONT)
    tmux.shows("● captioning")
    tmux.press("q")
    assert "Quality" not in tmux.shows("left with 0"), "the screen was not given back"
    tmux.shows("saved with 0")
    assert after.read_text() == before.read_text()
    end(daemons)


def test_ctrl_c_leaves_the_terminal_as_it_was(bus: Terminals, tmux: Tmux, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    tmux.type(f"stty -a > {before}; {' '.join(top(bus))}; echo left with $?; stty -a > {after}; echo saved with $?")
    tmux.press("Enter")
    tmux.shows("connecting to")
    tmux.press("C-c")
    tmux.shows("left with 130")
    tmux.shows("saved with 0")
    assert after.read_text() == before.read_text()


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


def test_once_and_for_scripts(bus: Terminals) -> None:
    daemons = all_of(bus)
    with bus.watch() as watch:
        watch.until("it captions", lambda status: status.captions > 0)
    shown = run(top(bus, "--once"))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "● captioning" in shown.stdout
    assert "\x1b" not in shown.stdout
    facts = json.loads(run(top(bus, "--json")).stdout)
    assert facts["status"]["items"] == 100_000
    assert facts["workers"][0]["contributor"] == facts["leaderboard"]["contributors"][0]["contributor"]
    slot = until("captions were counted", lambda: json.loads(run(top(bus, "--json")).stdout)["quality"]["slots"])[0]
    assert slot["captions"] == sum(slot["lengths"]) > 0
    end(daemons)


def test_where_it_cannot_be_shown(bus: Terminals) -> None:
    said = run(top(bus))
    assert said.returncode == 2
    assert said.stderr.startswith("This is no terminal: there is no screen to fill.")
    said = run(top(bus, "--once", "--set", f"admin.key_file={bus.folder / 'keys' / 'nobody.key_secret'}"))
    assert said.returncode == 2
    assert "There is no key file" in said.stderr


def test_a_workers_key_may_not_watch(bus: Terminals) -> None:
    broker = bus.start("broker")
    broker.says("broker.serves")
    said = run(top(bus, "--once", "--set", f"admin.key_file={bus.folder / 'keys' / 'gpu-0.key_secret'}"))
    assert said.returncode == 77
    assert "neither a monitor's nor an admin's" in said.stderr
    end([broker])
