"""What of its configuration a worker can change while it runs: one table, and two configurations compared. Pure.

It must not know how a change is carried out.

Invariants: every key is of one kind, and one that nobody has thought of needs a restart; values are compared and never
told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cfbus.config import Config
from cfbus.config_file import KeyPath
from cfbus.config_keys import differing, is_read, leaves, longest
from cfbus.errors import ConfigError
from cfbus.logs import display


class Kind(Enum):
    """What a change of a key needs."""

    LIVE = "live"
    """Nothing: it holds at once."""
    ENGINE = "engine"
    """A new engine, after what is leased is done."""
    RESTART = "restart"
    """A new process."""
    ELSEWHERE = "elsewhere"
    """Nothing here: another process reads it, or the broker sends it."""


KINDS: Final[Mapping[KeyPath, Kind]] = {
    ("dataset",): Kind.RESTART,
    ("storage",): Kind.ELSEWHERE,
    ("vllm",): Kind.ENGINE,
    ("vllm", "sampling"): Kind.ELSEWHERE,
    ("vllm", "inference_prompts"): Kind.ELSEWHERE,
    ("captions",): Kind.ELSEWHERE,
    ("captions", "engine"): Kind.RESTART,
    ("captions", "pixel_budget"): Kind.ENGINE,
    ("captions", "max_pixels"): Kind.ENGINE,
    ("captions", "scripted", "speed"): Kind.ENGINE,
    ("broker",): Kind.ELSEWHERE,
    ("writer",): Kind.ELSEWHERE,
    ("worker",): Kind.RESTART,
    ("worker", "concurrency"): Kind.LIVE,
    ("worker", "when_finished"): Kind.LIVE,
    ("worker", "decoders"): Kind.ENGINE,
    ("feeder",): Kind.ELSEWHERE,
    ("metrics",): Kind.RESTART,
    ("admin",): Kind.ELSEWHERE,
}
"""For a key, the longest of these that it begins with counts."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of keys that differ, by what they need."""

    live: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


def kind_of(path: KeyPath, engine: str) -> Kind:
    """What a change of this key needs where this engine writes the captions."""
    return (longest(KINDS, path) or Kind.RESTART) if is_read(path, engine) else Kind.ELSEWHERE


def changes(held: Config, built: Config, wanted: Config) -> Changes:
    """From a configuration to the ``wanted`` one: ``held`` is what holds now, ``built`` what the engine was made by."""
    found: dict[Kind, list[str]] = {kind: [] for kind in Kind}
    engine = held.captions.engine
    for before, kinds in ((held, set(Kind) - {Kind.ENGINE}), (built, {Kind.ENGINE})):
        for path in differing(leaves(before), leaves(wanted)):
            kind = kind_of(path, engine)
            if kind in kinds:
                found[kind].append(".".join(path))
    return Changes(*(tuple(found[kind]) for kind in Kind))


def check_changes(found: Changes, origins: Mapping[str, str]) -> None:
    """Raises ConfigError for what needs a restart; ``origins`` says by whom each key was given."""
    lines = []
    for name in found.restart:
        where = origins.get(name, "")
        lines.append(f"{where and f'{where}: '}{display(name, 120)} cannot change while the worker runs.")
    if lines:
        raise ConfigError("\n".join(lines), "Restart the worker, or put it back as it was.")
