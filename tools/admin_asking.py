"""What all verbs of `cfbus-admin` about the registry share: whom to ask, tables for people and scripts, dates.

Knows the command line; must not know the verbs.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.cells import cell_len

from cfbus import config, logs
from cfbus.errors import EXIT_DONE, UsageError
from cfbus.runtime import last_frame
from cfbus.store.registry_rows import date
from cfbus.store.registry_text import parse_date
from cfbus.tools.asking import Asker, OnFile, OverBus, Told
from cfbus.tools.screen import answer

JSON: Final = click.option("--json", "in_json", is_flag=True, help="JSON in one line, for scripts.")
CELL_CHARS: Final = 200
_LONG: Final = 10
"""A table of one row that is wider than this many columns is shown downwards."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True)
class Where:
    """Whom to ask: what was typed before the verb."""

    config_file: Path | None
    overrides: tuple[str, ...]
    offline: bool = False
    data_dir: Path | None = None

    def settings(self) -> config.Config:
        """The configuration."""
        return config.load("admin", self.config_file, self.overrides, os.environ).config


@contextmanager
def asker_of(where: Where) -> Iterator[Asker]:
    """The broker, or the registry's file."""
    settings = where.settings()
    file = where.offline or where.data_dir is not None
    with closing(OnFile(settings, where.data_dir) if file else OverBus(settings)) as asker:
        yield asker


def run(go: Callable[[], None]) -> None:
    """Do it and end, as every verb does."""

    def whole() -> int:
        go()
        return EXIT_DONE

    sys.exit(last_frame(whole))


def ask(where: Where, verb: str, arguments: Mapping[str, str | None], in_json: bool) -> None:
    """Ask one verb, show the answer, and end. Arguments that were not given are left out."""

    def go() -> None:
        with asker_of(where) as asker:
            told = asker.ask(verb, given(arguments))
        answer(as_json(told) if in_json else as_text(told))

    run(go)


def given(arguments: Mapping[str, str | None]) -> dict[str, str]:
    """Those that were given."""
    return {name: value for name, value in arguments.items() if value is not None}


def as_json(told: Told) -> str:
    """The table as a list of objects; with facts, an object of both."""
    rows = [dict(zip(told.columns, row, strict=False)) for row in told.rows]
    facts: dict[str, Any] = {name: int(value) if value.isdecimal() else value for name, value in told.facts}
    return json.dumps({**facts, "rows": rows} if facts else rows)


def as_text(told: Told) -> str:
    """The table for a person; one long row goes downwards."""
    if not told.columns or (told.facts and not told.rows):
        lines = []
    elif len(told.rows) == 1:
        lines = _downwards(told)
    else:
        lines = _across(told)
    lines += [f"{name.replace('_', ' ')}: {logs.display(value, CELL_CHARS)}" for name, value in told.facts]
    return "\n".join(lines)


def _downwards(told: Told) -> list[str]:
    width = max(map(len, told.columns))
    pairs = zip(told.columns, told.rows[0], strict=False)
    return [f"{logs.display(name, 60):<{width}}  {logs.display(value, CELL_CHARS)}" for name, value in pairs if value]


def _across(told: Told) -> list[str]:
    if not told.rows:
        return ["none"]
    table = [told.columns, *told.rows]
    shown = [[logs.display(cell, CELL_CHARS) for cell in row] for row in table]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=False)]
    lines = ("  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=False)) for row in shown)
    return [line.rstrip() for line in lines]


def _padded(cell: str, width: int) -> str:
    """By what it takes on a screen: a wide character is two cells, an accent none."""
    return cell + " " * (width - cell_len(cell))


def moment(text: str, *, back: bool = False) -> str:
    """A date as a person says it (``24h``, ``90d``, ``2027-01-31``, ``never``) as the registry reads it; ``back``:
    before now. Raises ``UsageError``."""
    spans = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if spans is None:
        try:
            return date(parse_date(text))
        except (UsageError, OverflowError, ValueError):
            raise UsageError(
                f"{logs.display(text, 60)!r} is no time: 24h, 90d, 2027-01-31 or 2027-01-31T12:00:00Z."
            ) from None
    seconds = int(spans[1]) * _UNITS[spans[2]]
    try:
        return date(time.time() + (-seconds if back else seconds))
    except (OverflowError, ValueError):
        raise UsageError(f"{text} is too far away.") from None
