"""What of its configuration a broker can change while it runs: two configurations compared, a class for each key. Pure.

It must not know how a change is carried out, nor what the store holds: whether a slot may go, the broker's core says.

Invariants: every key is of one class, and one of `broker` that nobody has thought of needs a restart; a value whose
name says that it is a secret is never told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cfbus.config import Config, Loaded
from cfbus.config_file import KeyPath
from cfbus.config_keys import differing, is_read, leaves, longest
from cfbus.logs import display, is_secret_name, redact

VALUE_CHARS = 120


class Class(StrEnum):
    """What a change of a key means for a bus that runs."""

    LIVE = "live"
    ENGINE = "engine reload"
    OPENS = "opens a pass"
    REFUSED = "refused"
    ELSEWHERE = "elsewhere"


WHY: Final[Mapping[Class, str]] = {
    Class.LIVE: "holds at once, for what is begun from now on",
    Class.ENGINE: "workers whose own configuration says otherwise refuse it until that is changed too",
    Class.OPENS: "a new slot: every image gets this caption too",
    Class.REFUSED: "a restart of the broker is needed",
    Class.ELSEWHERE: "another process reads it",
}
IDENTITY: Final = "it says what is captioned, and the store is of that alone"

CLASSES: Final[Mapping[KeyPath, Class]] = {
    ("dataset",): Class.REFUSED,
    ("storage",): Class.ELSEWHERE,
    ("vllm",): Class.ELSEWHERE,
    ("vllm", "model"): Class.ENGINE,
    ("vllm", "revision"): Class.ENGINE,
    ("vllm", "sampling"): Class.LIVE,
    ("vllm", "inference_prompts"): Class.LIVE,
    ("captions",): Class.LIVE,
    ("captions", "engine"): Class.ENGINE,
    ("captions", "pixel_budget"): Class.ENGINE,
    ("captions", "max_pixels"): Class.ENGINE,
    ("captions", "scripted", "speed"): Class.ELSEWHERE,
    ("broker",): Class.REFUSED,
    ("broker", "chunk_size"): Class.LIVE,
    ("broker", "lease_seconds"): Class.LIVE,
    ("broker", "max_attempts"): Class.LIVE,
    ("broker", "limits"): Class.LIVE,
    ("broker", "key_days"): Class.LIVE,
    ("writer",): Class.ELSEWHERE,
    ("worker",): Class.ELSEWHERE,
    ("feeder",): Class.ELSEWHERE,
    ("metrics",): Class.REFUSED,
    ("admin",): Class.ELSEWHERE,
}
"""For a key, the longest of these that it begins with counts."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not as it was; the values as people may see them, empty where there is none."""

    key: str
    kind: Class
    before: str
    after: str
    why: str
    where: str


def differences(held: Config, wanted: Loaded) -> tuple[Difference, ...]:
    """What a broker that goes by ``held`` would have to change."""
    before, after = leaves(held), leaves(wanted.config)
    slots = {path[2] for path in before if path[:2] == ("captions", "slots")}
    found = []
    for path in differing(before, after):
        kind = _class_of(path, wanted.config.captions.engine, slots)
        why = IDENTITY if path[0] == "dataset" else WHY[kind]
        name = ".".join(path)
        found.append(Difference(name, kind, shown(path, before), shown(path, after), why, wanted.origins.get(name, "")))
    return tuple(found)


def refusals(found: tuple[Difference, ...]) -> list[str]:
    """A sentence for each that cannot be."""
    refused = [each for each in found if each.kind is Class.REFUSED]
    return [f"{_place(each)}{display(each.key)} cannot change while the broker runs: {each.why}." for each in refused]


def class_of(path: KeyPath) -> Class:
    """What a change of this key means, where the engine that is configured reads it and it is no new slot."""
    return longest(CLASSES, path) or Class.REFUSED


def _place(found: Difference) -> str:
    return f"{display(found.where)}: " if found.where else ""


def _class_of(path: KeyPath, engine: str, slots: set[str]) -> Class:
    if not is_read(path, engine):
        return Class.ELSEWHERE
    if path[:2] == ("captions", "slots") and path[2] not in slots:
        return Class.OPENS
    return class_of(path)


def shown(path: KeyPath, values: Mapping[KeyPath, object]) -> str:
    """A value for a person, bounded and without secrets."""
    if path not in values:
        return ""
    if any(is_secret_name(part) for part in path):
        return "(not shown)"
    return display(redact(json.dumps(values[path], default=str, ensure_ascii=False)), VALUE_CHARS)
