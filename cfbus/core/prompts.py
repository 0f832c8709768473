"""Prompts with places for an item's columns: ``{column:title}`` or ``{col:title}`` stands for the column's text.

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
_PLACE: Final = re.compile(r"\{(?:column|col):([^{}]{1,200})\}")

Missing: TypeAlias = Literal["empty", "skip", "fail"]
"""What a column that an item lacks does: it stands for nothing, the slot is not asked, or the item fails."""


class MissingColumnError(Exception):
    """An item has no value in the column of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def columns_in(prompt: str) -> tuple[str, ...]:
    """The names of the columns that a prompt has places for, each once."""
    return tuple(dict.fromkeys(name.strip() for name in _PLACE.findall(prompt)))


def filled(prompt: str, columns: Mapping[str, object], missing: Missing) -> str | None:
    """The prompt with its places filled; None when it is to be skipped. Raises MissingColumnError under ``fail``."""
    lacking = next((name for name in columns_in(prompt) if columns.get(name) is None), None)
    if lacking is not None and missing == "fail":
        raise MissingColumnError(lacking)
    if lacking is not None and missing == "skip":
        return None
    return _PLACE.sub(lambda place: as_text(columns.get(place[1].strip())), prompt)


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
