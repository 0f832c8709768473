"""The workload ``daemons``: a bus of real processes; writer and broker are killed in the middle and started again.

    python drive_daemons.py ROOT

The writer says what it acknowledges where strace sees it, before the COMMIT is sent.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from crash.rig import Mark, marker
from crash.sample import DATASET
from crash.strace import marks_of
from processes.support import free_port

from cfbus.bus import messages as m
from cfbus.core.effects import Effect, Send
from cfbus.daemons import writer

ITEMS = 400
SLOTS = ("short", "long")
FAILURES = 0.02
_SECONDS = 120.0


def serve_writer(arguments: Sequence[str], mark: Mark) -> None:
    """The writer's own program, with marks."""

    class MarkedWriter(writer.WriterDaemon):
        def _carry_out(self, effects: list[Effect]) -> None:
            for effect in effects:
                if isinstance(effect, Send) and isinstance(effect.message, m.Commit):
                    _mark_commit(effect.message, mark)
                elif isinstance(effect, Send) and isinstance(effect.message, m.Done):
                    mark({"task": effect.message.task, "count": effect.message.count})
            super()._carry_out(effects)

    writer.WriterDaemon = MarkedWriter  # type: ignore[misc]
    sys.argv[1:] = arguments
    writer.main()


def _mark_commit(commit: m.Commit, mark: Mark) -> None:
    done = [(it.pass_number, it.shard, list(it.ranges)) for it in commit.results if it.status != "refused"]
    if done:
        mark({"done": done, "ends": commit.position, "captions": commit.captions + commit.dead_letters * len(SLOTS)})


class Bus:
    """The processes of one bus."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.config = root / "out" / "cfbus.yaml"
        port = free_port()
        settings = [
            f"broker.port={port}", f"broker.stats_port={free_port()}", "broker.chunk_size=40",
            *(f"{who}.server=tcp://127.0.0.1:{port}" for who in ("writer", "worker", "admin")),
            f"worker.spool_dir={root.with_name('spool')}", "storage.seal_seconds=1", f"dataset.name={DATASET}",
            "dataset.source=scripted", f"dataset.items={ITEMS}", "captions.engine=scripted",
            "captions.scripted.rate=100", "captions.scripted.length=60", f"captions.scripted.failures={FAILURES}",
            *(f"captions.slots.{slot}.prompt={slot}" for slot in SLOTS),
        ]  # fmt: skip
        flags = [word for setting in settings for word in ("--set", setting)]
        init = [sys.executable, "-m", "cfbus.tools.main", "init", str(root / "out"), *flags]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)

    def start(self, role: str) -> subprocess.Popen[bytes]:
        """``broker``, ``writer`` or ``gpu``."""
        own = [str(Path(__file__).resolve()), str(self._root), "writer"]
        program = own if role == "writer" else ["-m", f"cfbus.daemons.{role}"]
        with self._root.with_name(f"{role}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *program, "--config", str(self.config)], stdout=log, stderr=log, start_new_session=True
            )

    def serves(self, role: str, starts: int) -> bool:
        """Whether the broker or the writer, started so often, takes signals by now."""
        return self._root.with_name(f"{role}.log").read_text(errors="replace").count(f"{role}.serves ") >= starts

    def said(self) -> str:
        """All marks so far."""
        path = marks_of(self._root)
        return path.read_text() if path.exists() else ""


def until(what: str, look: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + _SECONDS
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def drive(root: Path) -> None:
    """From nothing until all is captioned and sealed."""
    bus = Bus(root)
    running = {role: bus.start(role) for role in ("broker", "writer", "gpu")}
    for victim, commits in (("writer", 4), ("broker", 9)):
        until(f"{commits} commits", lambda commits=commits: bus.said().count('"done"') >= commits)  # type: ignore[misc]
        running[victim].kill()
        running[victim].wait()
        running[victim] = bus.start(victim)
    until("everything is captioned", lambda: f'"captions": {ITEMS * len(SLOTS)}' in bus.said())
    # All may have been on its way to the disk when the broker was killed, so it may only just have been started again.
    for role in ("writer", "broker"):
        until(f"the {role} serves again", lambda role=role: bus.serves(role, 2))  # type: ignore[misc]
    for role in ("gpu", "writer", "broker"):
        running[role].send_signal(signal.SIGTERM)
        code = running[role].wait(_SECONDS)
        assert code == 0, f"{role} ended with exit code {code}: {root.with_name(f'{role}.log').read_text()[-2000:]}"


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if sys.argv[2:3] == ["writer"]:
        serve_writer(sys.argv[3:], marker(marks_of(place)))
    else:
        drive(place)
