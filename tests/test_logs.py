"""cfbus.logs: one harmless line per event, no secret in it, repeats counted."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from cfbus import logs
from cfbus.errors import UsageError

SECRET = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Sink:
    stream: io.StringIO = field(default_factory=io.StringIO)
    clock: Clock = field(default_factory=Clock)

    def setup(self, level: str = "info", json: bool = False) -> None:
        logs.setup("broker", level, json, self.stream, self.clock)

    def lines(self) -> list[str]:
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        assert not text or text.endswith("\n")
        return text.splitlines()

    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logs, "_secrets", ())
    monkeypatch.setattr(logs, "_lines", None)
    yield Sink()
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def test_a_line_of_words(sink: Sink) -> None:
    sink.setup()
    logs.get_logger(worker="w1").info("lease.granted", items=100, note='say "a b"', empty="", part=[1, "x"])
    [line] = sink.lines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    broker lease\.granted"
        r' worker=w1 items=100 note="say \\"a b\\"" empty="" part=\[1, "x"\]',
        line,
    )


def test_a_line_of_json(sink: Sink) -> None:
    sink.setup(json=True)
    logs.get_logger().warning("frame.refused", why="bad\nline", n=1, rate=float("nan"), level="mine", more={"k": b"v"})
    [record] = sink.records()
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", str(record.pop("time")))
    assert record == {
        "level": "warning", "component": "broker", "event": "frame.refused",
        "why": "bad\\nline", "n": 1, "rate": "nan", "level_": "mine", "more": {"k": "b'v'"},
    }  # fmt: skip


def test_levels(sink: Sink) -> None:
    sink.setup("warning")
    logs.get_logger().info("a.b")
    logs.get_logger().error("c.d")
    assert [line.split()[3] for line in sink.lines()] == ["c.d"]
    with pytest.raises(UsageError, match="debug, info, warning, error"):
        sink.setup("loud")


# display


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 漢字 🙂", "plain ünïcode 漢字 🙂"),
        ("a\tb\r\nc", "a\\tb\\r\\nc"),
        ("\x1b]0;title\x07\x9b31m", "\\x1b]0;title\\x07\\x9b31m"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("a\u2028b\u0085c\u200b\ufeff", "a\\u2028b\\x85c\\u200b\\ufeff"),
        ("\ud800\udcff", "\\ud800\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        ("full\u3000width", "full\u3000width"),
        ("\u2764\ufe0f \U0001f44d\U0001f3fd", "\u2764\\ufe0f \U0001f44d\\U0001f3fd"),
        ("ann\u3164\u115f\U000e0100", "ann\\u3164\\u115f\\U000e0100"),
        ("e\u0301 \u05e9\u05dc\u05d5\u05dd", "e\u0301 \u05e9\u05dc\u05d5\u05dd"),
        ("\x00\x7f\xa0", "\\x00\\x7f\\xa0"),
        ("", ""),
    ],
)
def test_display(text: str, shown: str) -> None:
    assert logs.display(text) == shown


def test_display_cuts_and_says_so() -> None:
    assert logs.display("x" * 200) == "x" * 200
    assert logs.display("x" * 201) == "x" * 199 + "…"
    assert logs.display("ab\x1b", 5) == "ab…"
    assert logs.display("ab\x1b", 6) == "ab\\x1b"


_HOSTILE = st.text(st.characters() | st.sampled_from("\x1b\x9b\n\r\u202e\u2028\ud800\x00"))


@given(_HOSTILE, st.integers(1, 40))
def test_display_is_one_harmless_line(text: str, limit: int) -> None:
    shown = logs.display(text, limit)
    assert len(shown) <= limit
    assert len(shown.splitlines()) <= 1
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]
    shown.encode("utf-8")
    assert logs.display(shown, limit) == shown


@given(st.dictionaries(_HOSTILE.filter(lambda key: key != "event"), _HOSTILE, max_size=3), st.booleans())
def test_nothing_logged_can_forge_a_line(values: dict[str, str], json_lines: bool) -> None:
    stream = io.StringIO()
    line = logs._Lines("gpu", json_lines, stream, logs.RepeatLimit())
    line.write(line.process(None, "info", {"event": "a.b", **values}))
    [written] = stream.getvalue()[:-1].split("\n")
    assert written.isascii() or len(written.splitlines()) == 1
    if json_lines:
        assert json.loads(written)["event"] == "a.b"
    else:
        assert re.match(r"\S+Z info    gpu a\.b( |$)", written)


def test_a_value_cannot_pretend_to_be_a_key(sink: Sink) -> None:
    sink.setup()
    logs.get_logger().info("peer.hello", **{"name": 'x role=admin "', "a b=": 1})
    [line] = sink.lines()
    assert line.endswith('peer.hello name="x role=admin \\"" a_b_=1')


# Secrets


@pytest.mark.parametrize("json_lines", [False, True])
def test_registered_secrets_never_appear(sink: Sink, json_lines: bool) -> None:
    sink.setup(json=json_lines)
    logs.register_secret(SECRET)
    log = logs.get_logger()
    log.info(f"got.{SECRET}", a=SECRET, b=f"x{SECRET}y", c=[SECRET], d={SECRET: {"k": SECRET}}, e=SECRET.encode())
    log.info("a.b", **{SECRET: 1}, cut="z" * 180 + SECRET, error=ValueError(SECRET))
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("c.d")
    logging.getLogger("lib").warning("%s", SECRET)
    text = "\n".join(sink.lines())
    assert SECRET not in text
    assert SECRET[:12] not in text
    assert text.count(logs.REDACTED) >= 10


def test_keys_named_like_secrets_are_redacted_and_counts_are_not(sink: Sink) -> None:
    sink.setup(json=True)
    values = dict.fromkeys(["secret", "SecretKey", "hf_token", "token", "password", "Authorization"], "s3")
    logs.get_logger().info("a.b", **values, nested={"api_key": "s3"}, output_tokens=17, prompt_tokens=3, key="k")
    [record] = sink.records()
    assert "s3" not in json.dumps(record)
    assert (record["output_tokens"], record["prompt_tokens"], record["key"]) == (17, 3, "k")


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="short"):
        logs.register_secret("abc")


# Repeats


def test_repeats_are_counted_and_summed_up(sink: Sink) -> None:
    sink.setup(json=True)
    log = logs.get_logger()
    for n in range(25):
        log.info("frame.refused", n=n)
        log.info(f"other.{n}")
    assert [record["n"] for record in sink.records() if record["event"] == "frame.refused"] == list(range(10))
    sink.clock.now = 9.9
    log.info("frame.refused")
    assert sink.records() == []
    sink.clock.now = 10.0
    log.info("other.thing")
    summary, other = sink.records()
    assert (summary["event"], summary["repeated"], summary["hidden"]) == ("log.repeats", "frame.refused", 16)
    assert other["event"] == "other.thing"
    log.info("frame.refused")
    assert [record["event"] for record in sink.records()] == ["frame.refused"]


def test_flush_tells_what_was_held_back(sink: Sink) -> None:
    sink.setup()
    for _ in range(12):
        logs.get_logger().info("a.b")
    assert len(sink.lines()) == 10
    logs.flush()
    assert [line.split(maxsplit=3)[3] for line in sink.lines()] == ["log.repeats repeated=a.b hidden=2"]
    logs.flush()
    assert sink.lines() == []


# What may go wrong while logging


def test_tracebacks_are_indented_and_harmless(sink: Sink) -> None:
    sink.setup()
    try:
        raise ValueError("bad\x1b[31m\n2024-01-01T00:00:00.000Z error   broker forged.event")
    except ValueError:
        logs.get_logger().exception("loop.failed")
    first, *rest = sink.lines()
    assert "loop.failed" in first
    assert rest
    assert all(line.startswith("    | ") for line in rest)
    assert "\x1b" not in "".join(rest)


def test_a_closed_or_narrow_stream_does_not_raise(sink: Sink) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    logs.setup("gpu", stream=narrow)
    logs.get_logger().info("a.b", name="漢")
    narrow.seek(0)
    assert "name=\\u6f22" in narrow.read()
    narrow.close()
    logs.get_logger().info("a.b")


def test_what_libraries_log_goes_the_same_way(sink: Sink) -> None:
    sink.setup(json=True)
    logging.getLogger("asyncio").warning("slow %s", "task\x07")
    logging.getLogger("asyncio").info("chatter")
    [record] = sink.records()
    assert (record["event"], record["level"], record["message"]) == ("library.asyncio", "warning", "slow task\\x07")


def test_importing_loads_neither_structlog_nor_logging() -> None:
    code = "import sys, cfbus.logs; print(*sorted({'structlog', 'logging', 'rich', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == []
