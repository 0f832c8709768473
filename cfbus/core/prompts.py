"""Prompts with places: ``{column:title}`` or ``{col:title}`` stands for the text of an item's column, ``{short}``
for an earlier caption of that name.

What it is for: finding the places and filling them. Everything else in a prompt, braces too, stays as it is; what is
filled in is never read as a prompt again.
What it must not know: where columns come from, models and their special tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

MAX_VALUE_CHARS: Final = 4096
SKIPPED: Final = "skipped"
"""The finish reason of a caption that was not asked for, because a column was missing."""
_COLUMN: Final = re.compile(r"\{(?:column|col):([^{}]{1,200})\}")
_PLACE: Final = re.compile(r"\{(?:(?:column|col):([^{}]{1,200})|([a-z][a-z0-9_]{0,31}))\}")
_NONE: Final[Mapping[str, str]] = {}

Missing: TypeAlias = Literal["empty", "skip", "fail"]
"""What a column that an item lacks does: it stands for nothing, the slot is not asked, or the item fails."""


class MissingColumnError(Exception):
    """An item has no value in the column of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def columns_in(prompt: str) -> tuple[str, ...]:
    """The names of the columns that a prompt has places for, each once."""
    return tuple(dict.fromkeys(name.strip() for name in _COLUMN.findall(prompt)))


def names_in(prompt: str) -> tuple[str, ...]:
    """The names in braces of a prompt, each once; some may be those of earlier captions."""
    return tuple(dict.fromkeys(name for _, name in _PLACE.findall(prompt) if name))


def filled(
    prompt: str, columns: Mapping[str, object], missing: Missing, earlier: Mapping[str, str] = _NONE
) -> str | None:
    """The prompt with its places filled; None when it is to be skipped. Raises MissingColumnError under ``fail``.

    ``earlier`` are captions by their names; other names in braces stay as they are.
    """
    lacking = next((name for name in columns_in(prompt) if columns.get(name) is None), None)
    if lacking is not None and missing == "fail":
        raise MissingColumnError(lacking)
    if lacking is not None and missing == "skip":
        return None

    def fill(place: re.Match[str]) -> str:
        column, name = place[1], place[2]
        return earlier.get(name, place[0]) if name else as_text(columns.get(column.strip()))

    return _PLACE.sub(fill, prompt)


def as_text(value: object) -> str:
    """A column's value as it stands in a prompt: texts as they are, lists of texts with commas, all else as JSON.

    At most `MAX_VALUE_CHARS` characters; what is longer ends with an ellipsis. Half characters are replaced.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        text = ", ".join(value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    if len(text) > MAX_VALUE_CHARS:
        text = text[: MAX_VALUE_CHARS - 1] + "…"
    return text.encode("utf-8", "replace").decode()
