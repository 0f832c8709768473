"""A real terminal for what fills a screen: tmux, which says what it shows."""

from __future__ import annotations

import os
import subprocess
import tempfile

from processes.support import PATIENCE_SECONDS, until


class Tmux:
    """A terminal of its own, with a shell in it."""

    def __init__(self, width: int = 100, height: int = 30) -> None:
        # Of its own, for the path of a socket may have 107 bytes, and that of a test's folder may be longer.
        self._folder = tempfile.TemporaryDirectory(prefix="cfbus-", dir="/tmp")
        self._socket = f"{self._folder.name}/tmux.sock"
        self._run("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), "sh")

    def _run(self, *arguments: str) -> str:
        command = ["tmux", "-S", self._socket, *arguments]
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PS1": "$ "}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
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
        self._folder.cleanup()
