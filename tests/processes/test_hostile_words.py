"""Names and texts of strangers on every exit of a real run: terminals, logs, pages, tables for people."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from processes.support import PATIENCE_SECONDS, Nursery, Run, Terminals
from processes.tables import make_pictures

HOSTILE = (
    "a\x1b[31mred\x1b[0m", "b\x1b]8;;evil.example\x07link", "c\x1b]52;c;ZXZpbA==\x07", "d[bold red]markup",
    "e\u202egpj.exe", "f\u2066isolate", "g\rover", "h\nline", "i\x9b31m", "=cmd()", "k\u200bzero", "l\x7f\x08",
)  # fmt: skip
SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def inert(what: str, text: str) -> None:
    found = SHOWN.search(text)
    assert found is None, f"{what}: {text[max(0, found.start() - 80) : found.end() + 40]!r}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Good ones with hostile names, and bad ones, whose names are told."""
    folder = tmp_path / "pictures"
    make_pictures(folder, 0, 3)
    good = (folder / "00001.jpg").read_bytes()
    for number, name in enumerate(HOSTILE):
        (folder / f"{name} {number}.png").write_bytes(good)
        (folder / f"{name} bad {number}.jpg").write_bytes(b"\x1b]0;owned\x07 no picture")
    return folder


def test_a_run_and_all_that_shows_it(nursery: Nursery, pictures: Path, tmp_path: Path) -> None:
    run = Run(nursery, tmp_path / "out", pictures)
    inert("run", run.command.ends(3))
    assert re.search(r"\\[xu][0-9a-f]{2}", run.command.said)
    for log in (tmp_path / "out" / "run" / "logs").iterdir():
        inert(log.name, log.read_text())
    again = nursery.start("cfbus.tools.main", "run", pictures, "--out", tmp_path / "out")
    inert("run again", again.ends(3))
    config = tmp_path / "out" / "cfbus.yaml"
    check = nursery.start("cfbus.tools.main", "check", config)
    check.process.wait(PATIENCE_SECONDS)
    inert("check", check.said)
    assert "[bold red]markup" in check.said
    inert("check --json", _json_text(nursery, "cfbus.tools.main", "check", config, "--json"))
    page = tmp_path / "page.html"
    inert("view", nursery.start("cfbus.tools.main", "view", tmp_path / "out", "--html", page).ends(0))
    inert("page", page.read_text())
    assert "[bold red]markup" in page.read_text()


def _json_text(nursery: Nursery, *command: str | Path) -> str:
    """JSON escapes by itself; what is escaped there is no danger to a terminal."""
    started = nursery.start(str(command[0]), *command[1:])
    started.process.wait(PATIENCE_SECONDS)
    json.loads(started.said.splitlines()[-1])
    return started.said


def test_a_bus_and_those_who_ask_it(nursery: Nursery, pictures: Path, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", "captions.engine=palette", images=pictures)
    daemons = [bus.start(name, "--log-level", "debug") for name in ("broker", "writer", "gpu-0")]
    with bus.watch() as watch:
        watch.until("all is done", lambda status: status.finished)

    def told(*words: str) -> str:
        command = nursery.start("cfbus.tools.admin", "--config", bus.config, *words)
        command.process.wait(PATIENCE_SECONDS)
        inert(" ".join(words), command.said)
        return command.said

    hostile = "ann\x1b]52;c;x\x07[red]\u202e"
    told("contributors", "set", "local", "--note", hostile, "--contact", hostile)
    told("contributors", "add", hostile)
    told("keys", "list")
    told("invite", hostile, "--endpoint", "tcp://bus.example.org:7710")
    told("pause", hostile)
    told(hostile)
    shard = "pictures-00000"
    for verb in ("status", "workers", "leases", f"story {shard}", f"story {shard}:5", "contributors list", "audit"):
        told(*verb.split())
    told("story", hostile)
    top = nursery.start("cfbus.tools.top", "--config", bus.config, "--once")
    inert("top", top.ends(0))
    for daemon in reversed(daemons):
        daemon.signal(signal.SIGTERM)
        inert("daemon", daemon.ends(0))
