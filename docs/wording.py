"""Types, bounds and tables in words, for the generated parts of the pages here.

Knows pydantic models and Markdown; must not know which model is described where. What a model cannot say of itself (a
meaning in words) stands in ``words.toml``.

Invariant: a name without a meaning is an error and never an empty cell; ``Meanings.unused`` tells the opposite.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

Row = Sequence[str]
Names = Sequence[tuple[object, str]]
"""Types that have a name of their own, and that name."""

_BIG = 1 << 20
_SIMPLE = {bool: "yes or no", int: "whole number", float: "number", str: "text", Path: "path", NoneType: "nothing"}
_BOUNDS = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern", "allow_inf_nan")
_PHRASES = {
    "ge": "at least {}", "min_length": "at least {}", "gt": "above {}",
    "le": "at most {}", "max_length": "at most {}", "lt": "below {}",
}  # fmt: skip


class PageError(Exception):
    """A page, or a table of meanings, does not fit the code; the message is a sentence."""


class Meanings:
    """The tables of ``words.toml``."""

    def __init__(self, path: Path) -> None:
        self._tables: dict[str, dict[str, str]] = tomllib.loads(path.read_text(encoding="utf-8"))
        self._used: set[tuple[str, str]] = set()

    def of(self, table: str, *names: str) -> str:
        """The meaning of the first of these names that has one."""
        for name in names:
            if name in self._tables[table]:
                self._used.add((table, name))
                return self._tables[table][name]
        raise PageError(f"docs/words.toml: [{table}] has no line for {names[0]!r}.")

    def names(self, table: str) -> list[str]:
        """All that a table explains."""
        return list(self._tables[table])

    def unused(self) -> list[str]:
        """A sentence for each meaning that nothing asked for."""
        return [
            f"docs/words.toml: [{table}] explains {name!r}, which the code no longer has."
            for table, names in self._tables.items()
            for name in names
            if (table, name) not in self._used
        ]


# ---------------------------------------------------------------------- Markdown


def cell(text: str) -> str:
    """Text, a docstring perhaps, that fits a cell of a table."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def table(head: Row, rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def sections(level: str, parts: Iterable[tuple[str, str]]) -> str:
    """Titles (``level`` is ``###``) with what stands under them."""
    return "\n\n".join(f"{level} {title}\n\n{body}" for title, body in parts)


def code(value: object) -> str:
    """As code."""
    return f"`{value}`"


# ---------------------------------------------------------------------- types


def type_of(hint: object, names: Names, more: Sequence[object] = ()) -> str:
    """A type, with its bounds and those in ``more``, in words."""
    base, kind, own = _known(hint, names) or _unknown(hint, names)
    return base + _bounds(kind, list(_flat([*own, *more])))


def _known(hint: object, names: Names) -> tuple[str, object, Sequence[object]] | None:
    """A type that has a name: ``Annotated`` flattens, so it is known by how its metadata begins."""
    if get_origin(hint) is not Annotated:
        return None
    kind, *own = get_args(hint)
    for alias, name in names:
        origin, *begin = get_args(alias)
        if origin == kind and len(begin) <= len(own) and all(a is b for a, b in zip(begin, own, strict=False)):
            return name, kind, own[len(begin) :]
    return None


def _unknown(hint: object, names: Names) -> tuple[str, object, Sequence[object]]:
    kind, *own = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return _plain(kind, names), kind, own


def _plain(kind: object, names: Names) -> str:
    for simple, word in _SIMPLE.items():
        if kind is simple:
            return word
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin in (Union, UnionType):
            return " or ".join(type_of(each, names) for each in arguments)
        case origin if origin is Literal:
            return "one of " + ", ".join(map(code, arguments))
        case origin if origin is tuple:
            return _tuple(arguments, names)
        case origin if origin is Mapping:
            return f"a section for each {type_of(arguments[0], names)}"
    assert isinstance(kind, type)
    if issubclass(kind, StrEnum):
        return "one of " + ", ".join(map(code, kind))
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _tuple(arguments: tuple[object, ...], names: Names) -> str:
    if not arguments:
        return "empty list"
    if arguments[-1] is Ellipsis:
        return f"list of {type_of(arguments[0], names)}"
    return "(" + ", ".join(type_of(each, names) for each in arguments) + ")"


# ---------------------------------------------------------------------- bounds


def number(value: float) -> str:
    """A number as people read it; a large power of two as one."""
    if isinstance(value, int) and value >= _BIG and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    if isinstance(value, int) and value >= _BIG and (value + 1).bit_count() == 1:
        return f"2^{value.bit_length()} - 1"
    return f"{int(value):,}" if value == int(value) else str(value)


def _flat(metadata: Iterable[object]) -> Iterator[object]:
    for each in metadata:
        yield from _flat(each.metadata) if isinstance(each, FieldInfo) else (each,)


def _bounds(kind: object, metadata: Sequence[object]) -> str:
    """Bounds as the end of a phrase; the last counts."""
    found = {name: value for each in metadata for name in _BOUNDS if (value := getattr(each, name, None)) is not None}
    parts = [
        _span(found, ("ge", "gt", "le", "lt"), ""),
        _span(found, ("min_length", "max_length"), " characters" if kind is str else " of them"),
        f"like `{found['pattern']}`" if "pattern" in found else "",
        "finite" if found.get("allow_inf_nan") is False and "le" not in found else "",
    ]
    return "".join(f", {part}" for part in parts if part)


def _span(found: Mapping[str, Any], names: Row, unit: str) -> str:
    given = [name for name in names if name in found]
    if given in (["ge", "le"], ["min_length", "max_length"]):
        return f"{number(found[given[0]])} to {number(found[given[1]])}{unit}"
    return ", ".join(_PHRASES[name].format(number(found[name])) for name in given) + (unit if given else "")
