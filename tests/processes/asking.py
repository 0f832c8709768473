"""Commands that are asked one thing and end: each in a process of its own, forked where all is imported already.

A fresh interpreter for each of so many mistakes would take minutes; what is skipped is only its start. A traceback and
exit code 1 come out as they would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
from processes.support import PATIENCE_SECONDS

Told: TypeAlias = Callable[..., str]
MODULES = {
    "cfbus": "cfbus.tools.main",
    "cfbus-admin": "cfbus.tools.admin",
    "cfbus-top": "cfbus.tools.top",
    "cfbus-broker": "cfbus.daemons.broker",
    "cfbus-writer": "cfbus.daemons.writer",
    "cfbus-gpu": "cfbus.daemons.gpu",
}
_FORKING = """
import importlib, json, os, sys, traceback
import cfbus.tools.run, cfbus.tools.init, cfbus.tools.join, cfbus.tools.keygen
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
print("ready", flush=True)
for line in sys.stdin:
    module, arguments, output = json.loads(line)
    child = os.fork()
    if child == 0:
        said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = arguments
        code = 0
        try:
            sys.modules[module].main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Asking:
    """A process in which all commands are imported, and which forks one for each question."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "said"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORKING, json.dumps(list(MODULES.values()))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def told(self, code: int, command: str, *arguments: str | Path) -> str:
        """What a command says, until it ends with this exit code."""
        question = [MODULES[command], [command, *map(str, arguments)], str(self._output)]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return as_told(code, int(self._line()), self._output.read_text(errors="replace"))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(PATIENCE_SECONDS)


def told_under(prefix: Sequence[str], code: int, command: str, *arguments: str | Path) -> str:
    """The same in an interpreter of its own, started under ``prefix``."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", MODULES[command], *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return as_told(code, done.returncode, done.stdout)


def as_told(wanted: int, code: int, said: str) -> str:
    """What may be shown to a person."""
    assert code == wanted, f"exit code {code}: {said}"
    assert "Traceback" not in said
    assert "bug in cfbus" not in said
    assert "\x1b" not in said
    return said


def needs(problem: str) -> None:
    """Skip for want of something, but never where everything should be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(problem)
    pytest.skip(problem)
