"""A process in which the daemons are imported once, and which forks one for each line that it is told.

Run as a script by ``nest``; nothing imports it. A fresh interpreter for each of a thousand restarts would spend more
time on imports than on the product. What a daemon starts itself (listing, sealing) is a fresh interpreter as ever.
When whoever talks to it is gone, however that came, it kills what it has started and ends.

The scripted engine is taken as it is, but for a count of its captions that outlives a kill: a number in a mapped file.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from importlib import import_module
from pathlib import Path

from cfbus.core.outcome import Outcome
from cfbus.engines import opening
from cfbus.engines.base import Post
from cfbus.engines.scripted import ScriptedEngine

MODULES = (
    "cfbus.tools.init",
    "cfbus.tools.admin",
    "cfbus.tools.join",
    "cfbus.daemons.broker",
    "cfbus.daemons.writer",
    "cfbus.daemons.gpu",
)
COUNT = struct.Struct("<Q")


class CountingEngine(ScriptedEngine):
    """Counts what it has captioned in a file beside the log."""

    file: Path

    def __init__(self, post: Post, speed: float = 1.0) -> None:
        self.file.write_bytes(bytes(COUNT.size))
        with self.file.open("r+b") as file:
            page = mmap.mmap(file.fileno(), COUNT.size)
        number = 0

        def counted(outcome: Outcome) -> None:
            nonlocal number
            number += 1
            COUNT.pack_into(page, 0, number)
            post(outcome)

        super().__init__(counted, speed)


def fork(module: str, arguments: list[str], log: str, *, stopped: bool) -> int:
    """Start a command; it waits for SIGCONT if it is wanted ``stopped``."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    CountingEngine.file = Path(log).with_suffix(".captioned")
    sys.argv = [module, *arguments]
    code = 70
    try:
        sys.modules[module].command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """A line in JSON for each wish; a line with a number, or null, in answer."""
    for module in MODULES:
        import_module(module)
    assert hasattr(opening, ScriptedEngine.__name__), "nobody would count"
    setattr(opening, ScriptedEngine.__name__, CountingEngine)
    alive: set[int] = set()
    print("ready", flush=True)
    for line in sys.stdin:
        wish = json.loads(line)
        answer: int | None = None
        if "module" in wish:
            answer = fork(wish["module"], wish["arguments"], wish["log"], stopped=wish["stopped"])
            alive.add(answer)
        else:
            pid, status = os.waitpid(wish["pid"], os.WNOHANG)
            if pid:
                alive.discard(pid)
                answer = os.waitstatus_to_exitcode(status)
        print(json.dumps(answer), flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    for pid in alive:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
