"""What configuration models say about themselves: sentences for what is wrong, comments for what is there.

It must not know a single section or key: everything is read from the models. pydantic's own messages
never reach a person; each is said again as *what was given* and *what is accepted*.

Invariant: the value of a key whose name looks secret is never part of a sentence.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, ClassVar, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cfbus.config_file import KeyPath, Value, dotted, dump_value
from cfbus.logs import display, is_secret_name

_WIDTH = 100
_LONG = 500


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, defaults checked like values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    short_form: ClassVar[str] = ""
    """The key that is meant when a plain text stands in place of the section."""

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, given: object) -> object:
        if given is None:  # a section whose every key is commented out
            return {}
        return {cls.short_form: given} if cls.short_form and isinstance(given, str) else given


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of one key: its bare annotation and the bounds that come with it."""

    annotation: object
    bounds: tuple[object, ...] = ()
    optional: bool = False

    @classmethod
    def of(cls, annotation: object, bounds: Sequence[object] = ()) -> Kind:
        optional = get_origin(annotation) is UnionType or get_origin(annotation) is Union
        if optional:
            annotation, nothing = get_args(annotation)
            assert nothing is NoneType, annotation
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            bounds = [*bounds, *more]
        return cls(annotation, tuple(_flat(bounds)), optional)

    @property
    def section(self) -> type[Section] | None:
        if isinstance(self.annotation, type) and issubclass(self.annotation, Section):
            return self.annotation
        return None

    def below(self, key: str) -> Kind | None:
        """The type of ``key`` in a value of this type; None where there is no such key."""
        if self.section is not None:
            info = self.section.model_fields.get(key)
            return None if info is None else Kind.of(info.annotation, info.metadata)
        if get_origin(self.annotation) is tuple:
            return Kind.of(get_args(self.annotation)[0])
        return Kind.of(get_args(self.annotation)[1]) if self.is_mapping else None

    @property
    def is_mapping(self) -> bool:
        return get_origin(self.annotation) is Mapping

    def accepted(self) -> str:
        """What may stand here, as the end of "… is not …"."""
        return self._accepted() + (", or nothing (null)" if self.optional else "")

    def _accepted(self) -> str:
        if self.section is not None:
            text = "a text or " if self.section.short_form else ""
            return f"{text}a section with the keys {', '.join(self.section.model_fields)}"
        if get_origin(self.annotation) is Literal:
            return "one of " + ", ".join(map(str, get_args(self.annotation)))
        if get_origin(self.annotation) is tuple:
            return f"a list, each {Kind.of(get_args(self.annotation)[0]).accepted()}"
        if self.is_mapping:
            inside = Kind.of(get_args(self.annotation)[1]).section
            each = f", each with its {inside.short_form}" if inside and inside.short_form else ""
            return "a section" + self._range(" of ", " names") + each
        if self.annotation is str:
            return "a text" + self._range(" of ", " characters")
        names: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number"}
        return names.get(self.annotation, "a path") + self._range(" ", "", between="from {} to {}")

    def _range(self, before: str, after: str, between: str = "{} to {}") -> str:
        low = [_bound(each) for each in self.bounds if isinstance(each, _LOWEST)]
        high = [_bound(each) for each in self.bounds if isinstance(each, _HIGHEST)]
        if low and high:
            return before + between.format(low[-1], high[-1]) + after
        return f"{before}at most {high[-1]}{after}" if high else ""


_LOWEST = (annotated_types.Ge, annotated_types.MinLen)
_HIGHEST = (annotated_types.Le, annotated_types.MaxLen)


def _bound(bound: object) -> object:
    for name in ("ge", "le", "min_length", "max_length"):
        if hasattr(bound, name):
            return getattr(bound, name)
    raise AssertionError(f"no bound: {bound!r}")


def _flat(bounds: Sequence[object]) -> Iterator[object]:
    for each in bounds:
        if isinstance(each, FieldInfo):
            yield from _flat(each.metadata)
        elif isinstance(each, annotated_types.GroupedMetadata):
            yield from each
        else:
            yield each


class ModelSchema:
    """Answers what the file reader asks (``config_file.Schema``) from a model."""

    def __init__(self, root: type[Section]) -> None:
        self._root = Kind.of(root)

    def kind(self, path: KeyPath) -> Kind | None:
        kind: Kind | None = self._root
        for key in path:
            kind = kind and kind.below(key)
        return kind

    def is_text(self, path: KeyPath) -> bool:
        kind = self.kind(path)
        if kind is None:
            return False
        return kind.annotation in (str, Path) or bool(kind.section and kind.section.short_form)

    def is_path(self, path: KeyPath) -> bool:
        kind = self.kind(path)
        return kind is not None and (kind.annotation is Path or kind.annotation == tuple[Path, ...])

    def has_short_form(self, path: KeyPath) -> bool:
        kind = self.kind(path)
        return bool(kind and kind.section and kind.section.short_form)

    def known_paths(self) -> Sequence[KeyPath]:
        return self._known

    @cached_property
    def _known(self) -> list[KeyPath]:
        return list(_walk(self._root, ()))

    def sentence(self, error: ErrorDetails) -> tuple[KeyPath, str]:
        """The key path of a validation error and what is wrong there, in words."""
        path = tuple(str(part) for part in error["loc"] if part != "[key]")
        if error["type"] == "extra_forbidden":
            return path, f"{dotted(path)}: no such key; {self._suggestion(path)}"
        own = str(error.get("ctx", {}).get("error", ""))
        kind = self.kind(path)
        if own and "[key]" in error["loc"]:
            return path, f"{dotted(path)}: this name is not {own}"
        if kind is not None and kind.section is not None and own:
            return path, f"{dotted(path)}: {own}" if path else own
        accepted = own or (kind.accepted() if kind else "accepted")
        if error["type"] == "missing":
            return path, f"{dotted(path)}: is missing; give {accepted}"
        given = error["input"]
        mend = "; write it without quotes" if kind and kind.annotation in (int, float) and _is_quoted(given) else ""
        return path, f"{dotted(path)}: {_given(path, given)} is not {accepted}{mend}"

    def _suggestion(self, path: KeyPath) -> str:
        parent = self.kind(path[:-1])
        siblings = list(parent.section.model_fields) if parent and parent.section else []
        key = path[-1].lower()
        near = get_close_matches(key, siblings, 3, 0.6)
        near.sort(key=lambda name: sorted(name) != sorted(key))  # first of all: letters that changed places
        if near:
            return f"did you mean {dotted((*path[:-1], near[0]))}?"
        lasts = {known[-1]: known for known in reversed(self.known_paths())}
        elsewhere = get_close_matches(key, lasts, 1, 0.8)
        if elsewhere:
            return f"did you mean {dotted(lasts[elsewhere[0]])}?"
        return f"the keys here are {', '.join(siblings)}."


def _walk(kind: Kind, path: KeyPath) -> Iterator[KeyPath]:
    for key in kind.section.model_fields if kind.section else ():
        below = kind.below(key)
        assert below is not None
        yield (*path, key)
        yield from _walk(below, (*path, key))


def _is_quoted(given: object) -> bool:
    return isinstance(given, str) and re.fullmatch("0|[1-9][0-9]{0,17}", given) is not None


def _given(path: KeyPath, value: object) -> str:
    if any(is_secret_name(part) or part.endswith("_key") for part in path):
        return "the value given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a section of {len(value)} keys" if value else "an empty section"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str) and len(value) > _LONG:
        return f"a text of {len(value):,} characters"
    if isinstance(value, str | Path):
        return f'"{display(str(value), 60)}"'
    return "nothing" if value is None else display(str(value), 60)


def commented(config: Section, implied: Section, names: Sequence[str], folder: Path) -> str:
    """YAML of the sections ``names``: what was set as keys, every default as a comment, all explained.

    ``implied`` is what a reader would get from the keys that were set alone; where it differs the key is
    written out. Paths inside ``folder`` are written relative to it.
    """
    lines: list[str] = []
    for name in names:
        lines += ["", *_key_lines(config, implied, name, folder)]
    return "\n".join(lines[1:]) + "\n"


def _key_lines(section: Section, implied: Section, name: str, folder: Path) -> list[str]:
    info = type(section).model_fields[name]
    value, other = getattr(section, name), getattr(implied, name)
    text = textwrap.wrap(info.description or "", _WIDTH, break_on_hyphens=False)
    comment = [f"# {line}" for line in text]
    if isinstance(value, Section):
        keys = type(value).model_fields
        body = [line for key in keys for line in _key_lines(value, other, key, folder)]
        for key, more in (value.model_extra or {}).items():
            body += _entries(key, _plain(more, folder))
        return [*comment, f"{name}:", *(f"  {line}" for line in body)]
    entries = _entries(name, _plain(value, folder))
    if name not in section.model_fields_set and value == other:
        entries = [f"#{line}" for line in entries]
    return [*comment, *entries]


def _entries(name: str, value: Value) -> list[str]:
    if not isinstance(value, dict) or not value:
        return [f"{name}: {dump_value(value)}"]
    return [f"{name}:", *(f"  {dump_value(key)}: {dump_value(each)}" for key, each in value.items())]


def _plain(value: object, folder: Path) -> Value:
    if isinstance(value, Section):
        # Of a section that has a name in a file (a slot), what was not given is not written: there it says nothing.
        names = [name for name in type(value).model_fields if name in value.model_fields_set]
        if names == [value.short_form]:
            return _plain(getattr(value, names[0]), folder)
        return {name: _plain(getattr(value, name), folder) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(each, folder) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each, folder) for each in value]
    if isinstance(value, Path):
        inside = str(value.relative_to(folder)) if value.is_relative_to(folder) else "~"
        return str(value) if inside.startswith("~") else inside
    assert value is None or isinstance(value, str | int | float | bool), type(value)
    return value
