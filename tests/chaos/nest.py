"""Real daemons that are started quickly, killed, stopped, traced, and never left behind.

A daemon is a fork of a process that has imported everything (``forking``); that one kills them all as soon as the pipe
to us closes, even if we are killed ourselves. Knows nothing of what the daemons do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from processes.support import MARK, PATIENCE_SECONDS, Nursery, until

ROOT = Path(__file__).resolve().parents[2]


class Nest:
    """Daemons of one test, in the network that ``prefix`` leads to. A context manager."""

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._number = 0
        self._nursery = Nursery(folder)
        self._forking = subprocess.Popen(
            [*prefix, sys.executable, str(Path(__file__).with_name("forking.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self._nursery.mark, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            cwd=ROOT,
            start_new_session=True,
        )
        assert self._answer() == "ready"

    @property
    def pid(self) -> int:
        """The process that forks."""
        return self._forking.pid

    def _answer(self) -> str:
        assert self._forking.stdout is not None
        return self._forking.stdout.readline().strip()

    def ask(self, wish: dict[str, object]) -> int | None:
        """What the forking process answers."""
        assert self._forking.stdin is not None
        self._forking.stdin.write(json.dumps(wish) + "\n")
        self._forking.stdin.flush()
        answer: int | None = json.loads(self._answer())
        return answer

    def start(self, module: str, *arguments: str | Path, stopped: bool = False) -> Daemon:
        """``python -m module arguments…``; ``stopped``: it begins with SIGCONT."""
        self._number += 1
        log = self.folder / f"{self._number:04d}-{module.rpartition('.')[2]}.log"
        wish = {"module": module, "arguments": list(map(str, arguments)), "log": str(log), "stopped": stopped}
        pid = self.ask(wish)
        assert pid is not None
        return Daemon(self, pid, log)

    def close(self) -> None:
        """End all that is left, and see that nothing is."""
        assert self._forking.stdin is not None
        assert self._forking.stdout is not None
        with suppress(BrokenPipeError):
            self._forking.stdin.close()
        try:
            self._forking.wait(PATIENCE_SECONDS)
        finally:
            self._forking.stdout.close()
            self._nursery.close()

    def __enter__(self) -> Nest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Daemon:
    """A daemon that was started."""

    def __init__(self, nest: Nest, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._nest = nest
        self._code: int | None = None

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        if self._code is None:
            self._code = self._nest.ask({"pid": self.pid})
        return self._code

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send it, unless it has ended and its number may be another's."""
        if self.code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is dead."""
        self.signal(signal.SIGKILL)
        self.ends(-signal.SIGKILL)

    def ends(self, *codes: int, seconds: float = PATIENCE_SECONDS) -> str:
        """Wait for its end with one of these exit codes; returns all that it said."""
        until(lambda: f"pid {self.pid} ends; it said: {self.said}", lambda: self.code is not None, seconds)
        assert self.code in codes, f"exit code {self.code}; it said: {self.said}"
        return self.said

    def says(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for this in its log."""

        def look() -> bool:
            assert text in self.said or self.code is None, f"ended without {text!r}: {self.said}"
            return text in self.said

        until(lambda: f"{text!r} in the log: {self.said}", look, seconds)

    def cpu_seconds(self) -> float:
        """What it has used so far, with all its threads."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
