"""Workers whose names are made to harm a screen, on a real one: `cfbus-top` and `cfbus-admin workers` in tmux."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from processes.raw_worker import Link
from processes.support import Nursery, Terminals, until
from processes.tmux import Tmux

from cfbus.bus import keys
from cfbus.bus import messages as m
from cfbus.bus.sockets import Connection
from cfbus.runtime import new_id

NAMES = {
    "esc": "\x1b[2J\x1b[H\x1b]0;owned\x07", "c1": "\x9b31m\x9d0;owned\x9c", "lf": "x\r\nforged idle",
    "bs": "x\x08\x08\x7f",
    "rlo": "\u202egnp.exe\u2066", "rtl": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "wide": "\u6f22\u5b57" * 9, "emoji": "\U0001f642" * 12, "tone": "\U0001f44d\U0001f3fd" * 4,
    "heart": "\u2764\ufe0f" * 6,
    "zwj": "\U0001f469\u200d\U0001f4bb", "flag": "\U0001f1e9\U0001f1ea" * 3, "zalgo": "z" + "\u0336\u0489\u0300" * 15,
    "fill": "\u3164\u115f\u2800", "markup": "[bold red]x[/]", "long": "w" * 59, "tab": "a\tb\x00c",
}  # fmt: skip
"""At most 64 characters each, with what it is about before it."""
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufe0f\ufeff\u3164]")
TOO_LONG = "q" * 500


def cells(text: str) -> int:
    """How wide a terminal shows it: by each character alone, as terminals do."""
    width = {"W": 2, "F": 2}
    return sum(
        0 if unicodedata.category(char) in ("Mn", "Me") else width.get(unicodedata.east_asian_width(char), 1)
        for char in text
    )


def from_cell(line: str, at: int) -> str:
    """What of a line is shown from this cell on."""
    for index in range(len(line)):
        if cells(line[:index]) == at and not unicodedata.combining(line[index]):
            return line[index:]
    return ""


class Crowd:
    """Workers with such names, which only say that they are there."""

    def __init__(self, bus: Terminals) -> None:
        self._context = zmq.Context()
        pair = keys.load(bus.folder / "keys" / "gpu-0.key_secret")
        self.links = [Link(self._context, pair, bus.server, bus.endpoint) for _ in NAMES]
        for link, (kind, name) in zip(self.links, NAMES.items(), strict=True):
            link.becomes(Connection.HANDSHAKE_OK)
            link.say(self.hello(f"{kind}:{name}"[:64]))

    @staticmethod
    def hello(name: str) -> m.Hello:
        known = m.Hello(role=m.Role.WORKER, instance=new_id(), software="t", name="x")
        return known.model_copy(update={"name": name})

    def are_there(self) -> bool:
        """They say so again, as otherwise they would be forgotten."""
        for link in self.links:
            link.say(m.Heartbeat())
            link.hear()
        return True

    def close(self) -> None:
        for link in self.links:
            link.close()
        self._context.term()


@pytest.fixture
def bus(nursery: Nursery, tmp_path: Path) -> Terminals:
    return Terminals(
        nursery, tmp_path / "bus", "dataset.source=scripted", "dataset.items=9", "captions.engine=scripted"
    )


@pytest.fixture
def crowd(bus: Terminals) -> Iterator[Crowd]:
    broker = bus.start("broker")
    broker.says("broker.serves")
    made = Crowd(bus)
    yield made
    made.close()
    broker.process.terminate()
    said = broker.ends(0)
    assert HARMFUL.search(said) is None
    joined = re.findall(r"(?m)^\S+Z info +broker worker\.joined worker=", said)
    hidden = re.findall(r"log\.repeats repeated=worker\.joined hidden=(\d+)", said)
    assert len(joined) + sum(map(int, hidden)) == len(NAMES), "a name has forged a line, or hidden one"


def rows_below(screen: str, head: str) -> tuple[str, list[str]]:
    """The line with the titles, and the rows below it that are about our workers."""
    lines = screen.splitlines()
    at = next((number for number, line in enumerate(lines) if head in line), None)
    if at is None:
        return "", []
    begins = tuple(f"{kind}:" for kind in NAMES)
    return lines[at], [line for line in lines[at + 1 :] if line.lstrip().startswith(begins)]


def shown(tmux: Tmux, crowd: Crowd, titles: dict[str, str]) -> None:
    """Wait until all names are on the screen, and below each title begins what fits its pattern, in every row: of a
    screen that is only half drawn some of that may be missing."""
    screen, odd = "", ""

    def all_of_them() -> bool:
        nonlocal screen, odd
        crowd.are_there()
        screen = tmux.screen()
        assert HARMFUL.search(screen) is None
        head, rows = rows_below(screen, next(iter(titles)))
        odd = out_of_columns(head, rows, titles)
        return len(rows) == len(NAMES) and not odd

    until(lambda: f"all names on the screen, each in its place:\n{screen}\n{odd}", all_of_them)
    assert tmux.title() != "owned"


def out_of_columns(head: str, rows: list[str], titles: dict[str, str]) -> str:
    """The rows in which something else is below a title."""
    odd = [
        f"{title}: {row}"
        for title, pattern in titles.items()
        for row in rows
        if title not in head or not re.match(pattern, from_cell(row, head.index(title)))
    ]
    return "\n".join(odd)


def command(bus: Terminals, module: str, *words: str) -> str:
    return " ".join([sys.executable, "-m", module, "--config", str(bus.config), *words])


def test_no_name_moves_a_column_or_speaks_to_the_terminal(bus: Terminals, crowd: Crowd, tmux: Tmux) -> None:
    tmux.resize(200, 60)
    tmux.type(command(bus, "cfbus.tools.top", "--stats", bus.stats, "; echo left with $?"))
    tmux.press("Enter")
    titles = {"CONTRIBUTOR": "local ", "STATE": r"(idle|waiting for work)\b"}
    shown(tmux, crowd, titles)
    tmux.press("Down", "Enter")
    until("one worker alone is shown", lambda: crowd.are_there() and "unacknowledged" in tmux.screen())
    assert HARMFUL.search(tmux.screen()) is None
    tmux.press("Escape")
    shown(tmux, crowd, titles)
    tmux.press("q")
    until("top has ended", lambda: crowd.are_there() and "left with 0" in tmux.screen())
    tmux.type(command(bus, "cfbus.tools.admin", "workers"))
    tmux.press("Enter")
    shown(tmux, crowd, {"contributor  ": "c-[0-9a-f]{16} ", "state": r"\w+ ", "heard": r"\d+ s"})


def test_a_name_that_is_too_long_gets_nobody_in(bus: Terminals, crowd: Crowd) -> None:
    link = crowd.links[0]
    link.hear()
    link.say(Crowd.hello(TOO_LONG))
    refused: list[m.Message] = []

    def answer() -> bool:
        refused.extend(message for message, _ in link.hear() if isinstance(message, m.Error))
        return bool(refused)

    until("an answer", answer)
    error = refused[0]
    assert isinstance(error, m.Error)
    assert error.code == "fields"
    assert TOO_LONG[:70] not in error.sentence
