"""The only module that reads and writes YAML: finding the file, values with their lines.

It must not know what the configuration means: whether a key exists, what type it has. What it needs of
that (is this leaf a text? has this section a short form?) is passed in as a ``Schema``.

Invariants: nothing in a file is ever constructed but texts, numbers, truth values, null, lists and
mappings; a file costs at most ``MAX_BYTES`` to read and ``MAX_NODES`` values to expand; every value is
remembered with the place a person gave it (``Origin``), and a value is never part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import yaml

from cfbus.errors import ConfigError
from cfbus.logs import display

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 16

_ODD_NUMBER = re.compile(r"^[-+]?0[0-9_]|:")
"""Whole numbers that YAML 1.1 takes for octal or sexagesimal, and no person does."""

Value: TypeAlias = "str | int | float | bool | Path | list[Value] | dict[str, Value] | None"
KeyPath: TypeAlias = tuple[str, ...]


class Schema(Protocol):
    """What the reader asks about a key path; unknown paths answer False."""

    def is_text(self, path: KeyPath) -> bool:
        """Whether a plain scalar here is text as written, so that ``no`` and ``007`` stay what they are."""

    def is_path(self, path: KeyPath) -> bool:
        """Whether the value here names a file or folder."""

    def has_short_form(self, path: KeyPath) -> bool:
        """Whether a text may stand here in place of a mapping."""

    def known_paths(self) -> Sequence[KeyPath]:
        """Every key path with a fixed name."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from, in the words of a person (``cfbus.yaml:3``), and what paths in it start at."""

    where: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence about one place."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


@dataclass(slots=True)
class Tree:
    """Values of all layers so far, the origin of each key path, and what was wrong on the way."""

    values: dict[str, Value] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def candidates(component: str, environ: Mapping[str, str], cwd: Path) -> Iterator[Path]:
    """The files that are looked for, first match wins, when no ``--config`` is given."""
    home = home_folder(environ)
    folders = [cwd]
    if home is not None:
        folders.append(home / ".cfbus")
    config_home = environ.get("XDG_CONFIG_HOME", "")
    if config_home.startswith("/"):
        folders.append(Path(config_home) / "cfbus")
    elif home is not None:
        folders.append(home / ".config" / "cfbus")
    folders.append(Path("/etc/cfbus"))
    shared = environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    folders += [Path(each) / "cfbus" for each in shared.split(":") if each.startswith("/")]
    folders.append(cwd / "examples")
    for folder in folders:
        yield folder / f"{component}.yaml"
        yield folder / "cfbus.yaml"


def absolute(path: str | Path, folder: Path) -> Path:
    """``path`` with ``~`` expanded, starting at ``folder`` unless absolute. ValueError: what a path is."""
    if not str(path) or "\0" in str(path):
        raise ValueError("a path")
    try:
        return folder / Path(path).expanduser()
    except RuntimeError:
        raise ValueError("a path in the home folder of somebody known here") from None


def discover(component: str, environ: Mapping[str, str], cwd: Path) -> Path | None:
    return next((path for path in candidates(component, environ, cwd) if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())  # a link to nothing is told
    except PermissionError:  # a folder that we may not look into holds nothing for us
        return False


def home_folder(environ: Mapping[str, str]) -> Path | None:
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path.home()
    except RuntimeError:
        return None


def read_file(path: Path, schema: Schema) -> Tree:
    """Reads one file into a fresh tree. Raises ConfigError where there is nothing to go on with."""
    return read_text(_text_of(path), path, schema)


def _text_of(path: Path) -> str:
    name = display(str(path))
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{name}: this configuration file does not exist.", "Check --config, or write one: cfbus init"
        ) from None
    except OSError as error:
        raise ConfigError(f"{name}: this configuration file cannot be read: {error.strerror}.") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES >> 20} MiB, so it is no configuration file.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: this is not UTF-8 text.", "Save the file as UTF-8.") from None


def read_text(text: str, path: Path, schema: Schema) -> Tree:
    """Reads YAML text that was found at ``path``: messages name it, relative paths start at its folder."""
    name = display(str(path))
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_sentence(name, error), "Indent with spaces, quote odd texts.") from None
    except yaml.YAMLError as error:
        reason = display(str(getattr(error, "reason", "unreadable")))
        raise ConfigError(f"{name}: this is not YAML: {reason}.") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply.") from None
    reader = _Reader(name, path.absolute().parent, schema)
    if node is None:
        return reader.tree
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise ConfigError(f"{name}:{line}: sections like 'broker:' are expected here, not {_kind(node)}.")
    reader.tree.values = reader.mapping(node, (), 0)
    return reader.tree


def _syntax_sentence(name: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
    parts = [part for part in (error.context, error.problem) if part]
    return f"{name}{place}: this is not YAML: {display(', '.join(parts))}."


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "a section with keys of its own" if isinstance(node, yaml.MappingNode) else "a single value"


class _TooLargeError(Exception):
    """Raised through the recursion of ``_Reader`` when aliases would expand beyond the bound."""


class _Reader:
    """Turns YAML nodes into values; keeps the line of every key."""

    def __init__(self, name: str, folder: Path, schema: Schema) -> None:
        self.tree = Tree()
        self._name, self._folder, self._schema = name, folder, schema
        self._nodes = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, Value]:
        try:
            return self._mapping(node, path, depth)
        except _TooLargeError:
            raise ConfigError(
                f"{self._name}: its aliases (*name) expand to more than {MAX_NODES} values,"
                f" or deeper than {MAX_DEPTH} levels.",
                "Write the values out.",
            ) from None

    def value(self, node: yaml.Node, path: KeyPath) -> Value:
        return self._value(node, path, 0)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, Value]:
        self._count(depth)
        values: dict[str, Value] = {}
        own: dict[str, int] = {}
        # Merged keys go first: a key written out in the mapping itself wins over them.
        for key_node, value_node in sorted(node.value, key=lambda pair: not _is_merge(pair[0])):
            line = key_node.start_mark.line + 1
            if _is_merge(key_node):
                values |= self._merged(value_node, path, depth, line)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(line, f"{_kind(key_node)} cannot be a key.")
                continue
            key = str(key_node.value)
            if key in own:
                self._problem(line, f"{dotted((*path, key))} is given twice, first in line {own[key]}.")
                continue
            own[key] = line
            values[key] = self._child(value_node, (*path, key), depth, line)
        return values

    def _merged(self, node: yaml.Node, path: KeyPath, depth: int, line: int) -> dict[str, Value]:
        sources = list(reversed(node.value)) if isinstance(node, yaml.SequenceNode) else [node]
        values: dict[str, Value] = {}
        for source in sources:
            if isinstance(source, yaml.MappingNode):
                values |= self._mapping(source, path, depth + 1)
            else:
                self._problem(line, "'<<' takes a section or a list of sections.")
        return values

    def _child(self, node: yaml.Node, path: KeyPath, depth: int, line: int) -> Value:
        self.tree.origins[path] = Origin(f"{self._name}:{line}", self._folder)
        return self._value(node, path, depth + 1)

    def _value(self, node: yaml.Node, path: KeyPath, depth: int) -> Value:
        if isinstance(node, yaml.MappingNode) and _plain(node.tag, "map"):
            return self._mapping(node, path, depth)
        self._count(depth)
        if isinstance(node, yaml.SequenceNode) and _plain(node.tag, "seq"):
            return [
                self._child(each, (*path, str(index)), depth, each.start_mark.line + 1)
                for index, each in enumerate(node.value)
            ]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._refused_tag(node)
        return None

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Value:
        if _plain(node.tag, "null") and not (node.value == "~" and self._schema.is_path(path)):
            return None
        if not _plain(node.tag, "str", "timestamp", "int", "float", "bool", "null"):
            self._refused_tag(node)
            return None
        if _plain(node.tag, "str", "timestamp", "null") or self._schema.is_text(path):
            return self.text(str(node.value), path)
        if _plain(node.tag, "int") and _ODD_NUMBER.search(node.value):
            return str(node.value)
        try:
            value: str | int | float | bool = self._scalars.construct_object(node)
        except (ValueError, OverflowError, KeyError, IndexError):
            return str(node.value)  # "!!int x": told apart from a number by whoever checks the types
        return value

    def text(self, text: str, path: KeyPath) -> str | Path:
        if self._schema.is_path(path):
            with suppress(ValueError):  # told by whoever checks the values
                return absolute(text, self._folder)
        return text

    def _refused_tag(self, node: yaml.Node) -> None:
        self._problem(node.start_mark.line + 1, f"the tag {display(str(node.tag), 80)} is not accepted here.")

    def _count(self, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _TooLargeError

    def _problem(self, line: int, sentence: str) -> None:
        self.tree.problems.append(Problem(f"{self._name}:{line}", sentence))


def _is_merge(node: yaml.Node) -> bool:
    return _plain(node.tag, "merge")


def _plain(tag: str, *kinds: str) -> bool:
    return tag.removeprefix("tag:yaml.org,2002:") in kinds


def dotted(path: Sequence[str]) -> str:
    return display(".".join(path), 120)


def read_fragment(text: str, path: KeyPath, origin: Origin, schema: Schema) -> tuple[Value, Tree]:
    """Reads one value that was given outside a file; what cannot be read as YAML stays text.

    Returns the value, and a tree with the origins of what is in it and with what was wrong.
    """
    reader = _Reader(origin.where, origin.folder, schema)
    if schema.is_text(path):
        return reader.text(text, path), reader.tree
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader) if len(text) <= MAX_BYTES else None
        value = None if node is None else reader.value(node, path)
    except (yaml.YAMLError, RecursionError, _TooLargeError):
        return text, Tree()
    problems = [Problem(origin.where, each.sentence) for each in reader.tree.problems]
    return value, Tree({}, dict.fromkeys(reader.tree.origins, origin), problems)


def dump_value(value: Value) -> str:
    """One line of YAML that reads back as ``value``; characters that could deceive a reader are escaped."""
    readable = _is_readable(value)
    line = yaml.safe_dump(
        value,
        default_flow_style=True,
        default_style=None if readable else '"',  # only double quotes hold any character in one line
        allow_unicode=readable,
        width=2**31,
        sort_keys=False,
    )
    return str(line).removesuffix("...\n").strip()


def _is_readable(value: Value) -> bool:
    if isinstance(value, dict):
        return all(_is_readable(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return all(map(_is_readable, value))
    return not isinstance(value, str) or display(value, len(value) + 1) == value
