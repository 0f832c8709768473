"""`cfbus-top`: the run as it goes, full screen; once with ``--once``, for scripts with ``--json``.

Joins a monitor's subscription, the keys of a terminal and `cfbus.tools.top_screen`; decides nothing. The terminal is
put back however it ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import zmq
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cfbus import __version__, config, logs, runtime
from cfbus.errors import EXIT_DONE, TryAgainError, UsageError
from cfbus.runtime import last_frame
from cfbus.tools import terminal
from cfbus.tools.main import begin
from cfbus.tools.monitoring import Monitor
from cfbus.tools.screen import answer, screen
from cfbus.tools.top_screen import render
from cfbus.tools.top_state import Seen, Snapshot, View

TICK_SECONDS = 0.5
FIRST_SECONDS = 15.0
REST_SECONDS = 4.0
"""After the first status: so long for the other topics, each of which comes every two seconds."""


class Top:
    """What is seen, and how a person looks at it."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._seen = self._frozen = Seen()
        self._view = View()

    def take(self) -> bool:
        """What has arrived; whether anything had."""
        before = self._seen
        self._monitor.look_after()
        for message in self._monitor.arrived():
            self._seen = self._seen.after(message, time.monotonic())
        return self._seen is not before

    @property
    def seen(self) -> Seen:
        """Everything that is known."""
        return self._seen

    def snapshot(self) -> Snapshot:
        """For a screen now."""
        if not self._view.paused:
            self._frozen = self._seen
        clock = time.strftime("%H:%M:%S")
        return Snapshot(
            self._frozen, self._view, time.monotonic(), clock, self._monitor.endpoint, self._monitor.reached
        )

    def press(self, keys: list[str]) -> bool:
        """Whether to go on."""
        for key in keys:
            if key == "q" and not (self._view.typing or self._view.help or self._view.detail):
                return False
            self._view = self._view.pressed(key, len(self.snapshot().workers))
        return True

    def follow(self, console: Console, keys_fd: int) -> None:
        """Full screen, until q."""
        poller = zmq.Poller()
        poller.register(keys_fd, zmq.POLLIN)
        with terminal.keyboard(keys_fd), Live(console=console, screen=True, auto_refresh=False) as live:
            going = True
            while going:
                live.update(_picture(self.snapshot(), console), refresh=True)
                poller.register(self._monitor.socket, zmq.POLLIN)  # a new one after a break
                ready = dict(poller.poll(int(TICK_SECONDS * 1000)))
                poller.unregister(self._monitor.socket)
                self.take()
                if keys_fd in ready:
                    going = self.press(terminal.pressed(keys_fd))

    def wait(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Take what comes until it is enough; whether it was in time."""
        deadline = time.monotonic() + seconds
        while not enough():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._monitor.socket.poll(int(min(left, TICK_SECONDS) * 1000) + 1)
            self.take()
        return True


def _picture(snapshot: Snapshot, console: Console) -> Group:
    width, height = console.size
    return Group(*(_whole_line(line) for line in render(snapshot, width, height)))


def _whole_line(line: Text) -> Text:
    line.no_wrap = True
    line.overflow = "crop"
    return line


def as_json(seen: Seen) -> str:
    """Everything once, for scripts."""
    parts = {
        "status": seen.status, "throughput": seen.throughput, "quality": seen.quality,
        "leaderboard": seen.leaderboard, "activity": seen.activity,
    }  # fmt: skip
    told: dict[str, object] = {name: part.model_dump() if part else None for name, part in parts.items()}
    told["workers"] = [worker.model_dump() for worker in seen.workers]
    return json.dumps(told)


def _once(top: Top, endpoint: str) -> None:
    if not top.wait(lambda: top.seen.status is not None, FIRST_SECONDS):
        raise TryAgainError(
            f"No broker told anything at {endpoint} within {FIRST_SECONDS:.0f} s.",
            "Is it running, and is admin.stats its address?",
        )
    top.wait(lambda: top.seen.whole, REST_SECONDS)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cfbus")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
@click.option("--stats", help="The address of the broker's statistics, tcp://HOST:PORT.")
@click.option("--once", is_flag=True, help="Show it a single time, and leave.")
@click.option("--json", "in_json", is_flag=True, help="Everything once, as JSON, for scripts.")
def command(config_file: Path | None, overrides: tuple[str, ...], stats: str | None, once: bool, in_json: bool) -> None:
    """Watch a run: how far, how fast, who works, what the captions are like. Needs a monitor's or an admin's key.

    \b
    q leave    s sort    / filter    up, down, enter: a worker
    tab panel    p freeze    ? help
    """
    logs.setup("top", "error")

    def go() -> int:
        wanted = [*overrides, *([f"admin.stats={stats}"] if stats else [])]
        settings = config.load("top", config_file, wanted, os.environ).config.admin
        for name in ("COLUMNS", "LINES"):  # exported by somebody, they are the size of another screen
            os.environ.pop(name, None)
        console = screen(sys.stdout)
        if not (once or in_json) and not (console.is_terminal and sys.stdin.isatty()):
            raise UsageError("This is no terminal: there is no screen to fill.", "Use --once, or --json for scripts.")
        monitor = Monitor(settings.key_file, runtime.server_key(settings.server_key, "admin"), settings.stats)
        try:
            _show(Top(monitor), settings.stats, console, once=once, in_json=in_json)
        finally:
            monitor.close()
        return EXIT_DONE

    sys.exit(last_frame(go))


def _show(top: Top, endpoint: str, console: Console, *, once: bool, in_json: bool) -> None:
    if once or in_json:
        _once(top, endpoint)
        if in_json:
            answer(as_json(top.seen))
            return
        height = max(24, 20 + len(top.seen.workers))
        for line in render(top.snapshot(), console.width, height):
            console.print(_whole_line(line))
    else:
        top.follow(console, sys.stdin.fileno())


def main() -> None:
    """Entry point."""
    begin(command)


if __name__ == "__main__":
    main()
