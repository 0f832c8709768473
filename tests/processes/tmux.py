"""A real terminal for what fills a screen: tmux, which says what it shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from processes.support import until


class Tmux:
    """A terminal of its own, with a shell in it."""

    def __init__(self, folder: Path, width: int = 100, height: int = 30) -> None:
        self._socket = str(folder / "tmux.sock")
        self._run("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), "sh")

    def _run(self, *arguments: str) -> str:
        command = ["tmux", "-S", self._socket, *arguments]
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PS1": "$ "}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def title(self) -> str:
        """What the terminal's window is called."""
        return self._run("display-message", "-p", "#{pane_title}").strip()

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def shows(self, words: str) -> str:
        seen = ""

        def look() -> str:
            nonlocal seen
            seen = self.screen()
            return seen if words in seen else ""

        return until(lambda: f"{words!r} on the screen:\n{seen}", look)

    def close(self) -> None:
        self._run("kill-server")
