"""Two networks with a wire between them that can be cut: no packet comes through, and nobody is told.

The networks have no names. They live as long as the processes in them, so that nothing has to be cleaned up, whatever
happens to us.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos.nest import Nest

NEAR, FAR, BITS = "10.77.0.1", "10.77.0.2", 30
TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
ALONE = ("unshare", "--net")
"""What a command is started with to have a network of its own."""


def missing() -> str:
    """Why there can be no two networks here; empty if there can."""
    if os.geteuid() != 0:
        return "networks of one's own need root"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"{tool} is not installed (apt install {package})"
    done = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def command(program: Path, arguments: Sequence[str]) -> list[str]:
    """How to start a Python program that makes a ``Wire``."""
    return [*ALONE, sys.executable, str(program), *arguments]


class Wire:
    """From the network of this process, which is already one of its own, to that of a nest."""

    def __init__(self, far: Nest) -> None:
        self._in_far = ("nsenter", f"--net=/proc/{far.pid}/ns/net")
        self.whole = True
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(far.pid))
        self._ip("address", "add", f"{NEAR}/{BITS}", "dev", "near")
        self._ip("link", "set", "near", "up")
        self._ip("address", "add", f"{FAR}/{BITS}", "dev", "far", prefix=self._in_far)
        self.mend()

    def cut(self) -> None:
        """At the far end: the near one keeps its address."""
        self.whole = False
        self._ip("link", "set", "far", "down", prefix=self._in_far)

    def mend(self) -> None:
        self.whole = True
        self._ip("link", "set", "far", "up", prefix=self._in_far)

    @staticmethod
    def _ip(*words: str, prefix: Sequence[str] = ()) -> None:
        subprocess.run([*prefix, "ip", *words], check=True)
