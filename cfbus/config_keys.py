"""A configuration as a flat list of keys: which there are, which differ, and what a table by key says of one. Pure.

It must not know what a change of a key means: whoever asks has a table of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from cfbus.config import Config
from cfbus.config_captions import ONLY_FOR
from cfbus.config_file import KeyPath

T = TypeVar("T")


def leaves(config: Config) -> dict[KeyPath, object]:
    """Every key that has a value, and the value."""
    return dict(_leaves(config.model_dump(), ()))


def _leaves(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, below in value.items():
            yield from _leaves(below, (*path, str(key)))
    else:
        yield path, value


def differing(before: Mapping[KeyPath, object], after: Mapping[KeyPath, object]) -> list[KeyPath]:
    """The keys whose values are not the same, or that only one side has, in order."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def longest(table: Mapping[KeyPath, T], path: KeyPath) -> T | None:
    """What a table says of a key: of the keys in it that this one begins with, the longest counts."""
    return next((table[path[:length]] for length in range(len(path), 0, -1) if path[:length] in table), None)


def is_read(path: KeyPath, engine: str) -> bool:
    """Whether a key counts at all where this engine writes the captions."""
    return next((owner for section, owner in ONLY_FOR.items() if path[: len(section)] == section), engine) == engine
