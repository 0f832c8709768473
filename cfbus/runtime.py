"""Where cores meet the world: the loop, signals, and the last frame of every daemon.

The loop is one thread over a poller: wait, drain, handle, tick, commit, send. Everything that may take long happens in
child processes or other threads, which wake the loop. Nothing here decides anything about leases or captions.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zmq

from cfbus import logs, notify
from cfbus.bus import keys
from cfbus.core.effects import Stop
from cfbus.errors import EXIT_INTERRUPTED, CfbusError, ConfigError

MAX_WAIT_SECONDS = 60.0
GC_THRESHOLD = 10_000


def now() -> float:
    """Seconds of the clock that counts everything here: it never jumps, and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> int:
    """Microseconds since the epoch, UTC; only ever shown or stored."""
    return time.time_ns() // 1000


def new_id() -> str:
    """64 random bits."""
    return secrets.token_hex(8)


class Loop:
    """A poller with callbacks, woken by sockets, pipes, other threads, signals and the death of the parent."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wake_read, self._woken)
        self.stop_requests = 0
        self.exit_code: int | None = None
        self._handled: tuple[signal.Signals, ...] = ()

    def watch(self, source: int | zmq.Socket[bytes], callback: Callable[[], None]) -> None:
        """Call back whenever the source can be read."""
        self._callbacks[source] = callback
        self._poller.register(source, zmq.POLLIN)

    def unwatch(self, source: int | zmq.Socket[bytes]) -> None:
        """Do not look at it any more."""
        if self._callbacks.pop(source, None) is not None:
            self._poller.unregister(source)

    def wake(self) -> None:
        """From any thread or signal handler: take a turn now."""
        with contextlib.suppress(BlockingIOError):  # a full pipe: it is awake already
            os.write(self._wake_write, b"\0")

    def _woken(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            return

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT ask to stop; a second one asks to stop at once. Once the loop ends they change nothing."""

        def asked(_signal: int, _frame: object) -> None:
            self.stop_requests += 1
            self.wake()

        self._handled = (signal.SIGTERM, signal.SIGINT)
        for number in self._handled:
            signal.signal(number, asked)

    def on_hangup(self, read_again: Callable[[], None]) -> None:
        """SIGHUP: read again what may have changed; but when it is the terminal that was closed, stop with it."""
        had_terminal = _has_terminal()

        def asked(_signal: int, _frame: object) -> None:
            if had_terminal and not _has_terminal():
                self.stop_requests += 1
            else:
                read_again()
            self.wake()

        signal.signal(signal.SIGHUP, asked)

    def follow_parent(self, fd: int) -> None:
        """Stop when the other end of this pipe closes: our parent is gone."""

        def gone() -> None:
            self.unwatch(fd)
            self.stop_requests += 1

        os.set_inheritable(fd, False)
        self.watch(fd, gone)

    def stop(self, exit_code: int) -> None:
        """End after this turn."""
        self.exit_code = exit_code

    def run(
        self,
        turn: Callable[[float], float],
        describe: Callable[[], str] = str,
        at_work: Callable[[float], str] = lambda _: "",
    ) -> int:
        """Take turns until ``stop``. ``turn(now)`` does what is due and says when it wants the next one.

        For systemd, if it started us: ``describe`` is its status line, and it hears that we live as long as
        ``at_work(now)`` is empty (else a sentence that says what stands still).
        """
        watchdog = notify.Watchdog(at_work)
        # What lives now lives on; what is made from here on has no cycles worth looking for often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 10, 10)
        deadline = turn(now())
        while self.exit_code is None:
            deadline = min(deadline, watchdog.turn(now(), describe))
            wait = min(max(deadline - now(), 0.0), MAX_WAIT_SECONDS)
            for source, _ in self._poller.poll(int(wait * 1000) + (wait > 0)):
                callback = self._callbacks.get(source)
                if callback is not None:
                    callback()
            deadline = turn(now())
        for number in self._handled:
            # Python gives our handler up at its very end, and then a third request would be told as a death.
            signal.signal(number, signal.SIG_IGN)
        return self.exit_code


@dataclass(frozen=True, slots=True)
class Family:
    """How a daemon belongs to whoever started it: pipes for «I am ready» and «I am gone»."""

    ready_fd: int | None = None
    parent_fd: int | None = None

    def ready(self, facts: Mapping[str, str | int]) -> None:
        """Tell systemd, and a parent that waits for it, that the daemon serves."""
        notify.tell("READY=1")
        if self.ready_fd is not None:
            with os.fdopen(self.ready_fd, "w") as pipe:
                pipe.write(json.dumps(dict(facts)) + "\n")


def _has_terminal() -> bool:
    """Whether a terminal controls this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def ended_by(stop: Stop) -> CfbusError:
    """What a core's wish to stop is to the last frame."""
    error = CfbusError(stop.sentence, stop.hint)
    error.exit_code = stop.exit_code
    return error


def last_frame(command: Callable[[], int]) -> int:
    """Run a command; turn what it raises into a sentence and an exit code. Bugs are 70, never Python's own 1."""
    try:
        return command()
    except CfbusError as error:
        _tell(error.message)
        if error.hint:
            _tell(f"  {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception:  # noqa: BLE001 - the one place where anything at all is caught
        logs.get_logger().error("bug", exc_info=True)
        _tell("This is a bug in cfbus; please report it with the lines above.")
        return CfbusError.exit_code
    finally:
        logs.flush()


def _tell(text: str) -> None:
    """A line for a person. Where it cannot be written (a log on a full disk), the exit code still speaks."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{_shown(text)}\n")
        sys.stderr.flush()


def _shown(text: str) -> str:
    """A message of ours for a person: its own line breaks stay, everything hostile does not."""
    return "\n".join(logs.display(line, 2000) for line in text.split("\n"))


def server_key(line: str, section: str) -> bytes:
    """The broker's public key out of the configuration."""
    if not line:
        raise ConfigError(
            f"{section}.server_key is missing: without it a stranger could pose as the broker.",
            "Copy the line that cfbus-broker logs when it starts (cfbus-key1 …) into the configuration.",
        )
    public, _ = keys.parse_public_line(line)
    return public
