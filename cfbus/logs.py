"""Structured logging, and ``display()`` for text that strangers wrote.

It must not know what is logged: no event name, no key, no protocol. An event is a short dotted word
(``lease.granted``), everything else a key with a value.

Invariants: one event is one write; no value and no key leaves this module before redaction and
``display()``, so that a log line cannot forge another, drive a terminal, or show a registered secret; an
event that repeats is counted instead of written; a log that cannot be written never stops the program.

Importing this module is cheap (structlog is loaded by ``setup`` and ``get_logger``): call ``get_logger``
in functions, not while a module is being imported.
"""

from __future__ import annotations

import json as jsonlib
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from cfbus.errors import UsageError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, WrappedLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
REDACTED = "[redacted]"
MAX_REPEATS = 10
REPEAT_SECONDS = 10.0

_SECRET_NAME = re.compile(r"secret|passw|passphrase|credential|(^|[^a-z])token$|apikey|api_key|authori[sz]ation")
_NEEDS_QUOTES = re.compile(r'[\s="\\]|^$')
_UNSTEADY = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U0001f3fb-\U0001f3ff\U000e0100-\U000e01ef]"
)
"""Fillers that nobody sees, variation selectors, skin tones: of these terminals do not agree how wide they are."""
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MAX_PARTS = 20
_MAX_DEPTH = 3
_MAX_TRACEBACK_LINES = 60

_secrets: tuple[str, ...] = ()


def display(text: str, limit: int = 200) -> str:
    """``text`` as one harmless line of at most ``limit`` characters, for a terminal or a log.

    Control characters, escape sequences, line breaks, invisible and bidirectional characters, those that change how
    wide others are, and lone surrogates become visible escapes (``\\x1b``, ``\\u202e``); what is cut off is marked
    by ``…``.
    """
    if len(text) <= limit and text.isprintable() and (text.isascii() or not _UNSTEADY.search(text)):
        return text
    parts: list[str] = []
    used = 0
    for char in text[: limit + 1]:
        part = _visible(char)
        used += len(part)
        parts.append(part)
    if used <= limit and len(text) <= limit:
        return "".join(parts)
    while parts and used > limit - 1:
        used -= len(parts.pop())
    return "".join(parts) + "…"


def _visible(char: str) -> str:
    if not _UNSTEADY.match(char) and (
        char.isprintable() or (char.isspace() and char > "\xa0" and char not in "\u2028\u2029")
    ):
        return char
    code = ord(char)
    if char in _NAMES:
        return _NAMES[char]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds what must not be shown. ``output_tokens`` is a count, not a secret."""
    return _SECRET_NAME.search(name.lower()) is not None


def register_secret(secret: str) -> None:
    """From now on ``secret`` (a 40-character Z85 half, a passphrase) is replaced in whatever is logged."""
    if len(secret) < 8:
        raise ValueError("a secret this short would redact ordinary words")
    global _secrets
    _secrets = tuple(sorted({*_secrets, secret}, key=len, reverse=True))


def redact(text: str) -> str:
    """``text`` without any registered secret."""
    for secret in _secrets:
        text = text.replace(secret, REDACTED)
    return text


@dataclass(slots=True)
class _Window:
    started: float
    seen: int = 0


@dataclass(slots=True)
class RepeatLimit:
    """Lets ``MAX_REPEATS`` events of one name through per ``REPEAT_SECONDS``; counts the others."""

    clock: Callable[[], float] = time.monotonic
    _windows: dict[str, _Window] = field(default_factory=dict)

    def admit(self, event: str) -> bool:
        window = self._windows.setdefault(event, _Window(self.clock()))
        window.seen += 1
        return window.seen <= MAX_REPEATS

    def summaries(self, everything: bool = False) -> list[tuple[str, int]]:
        """(event, how many were not written) of the windows that are over; these are forgotten."""
        now = self.clock()
        over = [name for name, each in self._windows.items() if everything or now - each.started >= REPEAT_SECONDS]
        return [(name, hidden) for name in over if (hidden := self._windows.pop(name).seen - MAX_REPEATS) > 0]


class _Lines:
    """The end of the pipeline: event dictionaries in, whole lines out."""

    def __init__(self, component: str, json: bool, stream: TextIO | None, limit: RepeatLimit) -> None:
        self._component, self._json, self._stream = component, json, stream
        self._limit = limit
        self._lock = threading.RLock()  # a signal handler may log while its thread is in here

    def process(self, _logger: WrappedLogger, level: str, event: MutableMapping[str, Any]) -> str:
        from structlog import DropEvent

        name = redact(str(event.pop("event", "")))
        with self._lock:
            lines = self._summaries()
            if self._limit.admit(name):
                lines.append(self._line(level, name, event))
        if not lines:
            raise DropEvent
        return "\n".join(lines)

    def _summaries(self, everything: bool = False) -> list[str]:
        return [
            self._line("info", "log.repeats", {"repeated": name, "hidden": hidden})
            for name, hidden in self._limit.summaries(everything)
        ]

    def _line(self, level: str, name: str, values: Mapping[str, Any]) -> str:
        head = {"time": _now(), "level": level, "component": self._component, "event": display(name, 100)}
        traceback = values.get("exception")
        body: dict[str, object] = {}
        for key, value in values.items():
            if key != "exception":
                shown = display(redact(str(key)), 60)
                taken = shown in head
                body[shown + "_" * taken] = REDACTED if is_secret_name(str(key)) else _clean(value, 0)
        trace = _traceback_lines(str(traceback)) if traceback else []
        if self._json:
            extra = {"exception": "\n".join(trace)} if trace else {}
            return jsonlib.dumps(head | body | extra, ensure_ascii=False)
        opening = [head["time"], f"{level:<7}", self._component, _word(head["event"])]
        first = " ".join(opening + [_pair(*item) for item in body.items()])
        return "\n".join([first, *(f"    | {line}" for line in trace)])

    def write(self, message: str) -> None:
        stream = self._stream or sys.stderr
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            stream.write((message + "\n").encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (OSError, ValueError):  # the terminal or the pipe behind it is gone
            return

    def flush(self) -> None:
        with self._lock:
            lines = self._summaries(everything=True)
        if lines:
            self.write("\n".join(lines))

    # The names under which structlog calls the logger that it wraps.
    msg = debug = info = warning = error = write


_lines: _Lines | None = None


def setup(
    component: str,
    level: str = "info",
    json: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Sends all logging of the process to ``stream`` (default: stderr), as lines of words or of JSON.

    Raises UsageError on an unknown level. ``clock`` (seconds, monotonic) only counts repeats.
    """
    import logging

    import structlog

    global _lines
    if level not in LEVELS:
        raise UsageError(f"No log level is called {display(level, 40)!r}.", f"Take one of: {', '.join(LEVELS)}.")
    _lines = lines = _Lines(component, json, stream, RepeatLimit(clock))
    structlog.configure(
        processors=[structlog.processors.format_exc_info, lines.process],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_args: lines,
        cache_logger_on_first_use=False,
    )

    class Libraries(logging.Handler):
        """What libraries tell Python's own logging goes through the same pipeline."""

        def emit(self, record: logging.LogRecord) -> None:
            name = logging.getLevelName(max(10, min(40, record.levelno // 10 * 10))).lower()
            structlog.get_logger().log(
                LEVELS.get(name, 30),
                f"library.{record.name}",
                message=record.getMessage(),
                exc_info=record.exc_info,
            )

    logging.basicConfig(level=logging.WARNING, handlers=[Libraries()], force=True)


def get_logger(**values: object) -> FilteringBoundLogger:
    """A logger that adds ``values`` to every event; before ``setup`` it writes as structlog does."""
    import structlog

    logger: FilteringBoundLogger = structlog.get_logger(**values)
    return logger


def flush() -> None:
    """Writes the counts of repeats that are still held back: at the end, and now and then while idle."""
    if _lines is not None:
        _lines.flush()


def _now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def _clean(value: object, depth: int) -> object:
    """``value`` with every text in it redacted and harmless, and bounded in size."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {
            display(redact(str(key)), 60): REDACTED if is_secret_name(str(key)) else _clean(each, depth + 1)
            for key, each in list(value.items())[:_MAX_PARTS]
        }
    if depth < _MAX_DEPTH and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_clean(each, depth + 1) for each in value[:_MAX_PARTS]]
    return display(redact(value if isinstance(value, str) else str(value)))


def _traceback_lines(text: str) -> list[str]:
    return [display(line) for line in redact(text).splitlines()[-_MAX_TRACEBACK_LINES:]]


def _pair(key: str, value: object) -> str:
    text = _word(value) if isinstance(value, str) else jsonlib.dumps(value, ensure_ascii=False)
    return f"{_NEEDS_QUOTES.sub('_', key)}={text}"


def _word(text: str) -> str:
    if not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
