"""The stages of a CaptionFlow configuration as stages and slots of ours.

There a stage is an entry of a list, with prompts without names; its results stand in later prompts as ``{FIELD}`` or
``{STAGE_output_0}``. Here each prompt is a slot with a name.

It must not know files or lines. Invariants: a stage requires what its prompts hold, and what it required there; every
name is one that the configuration takes, and no name means two things.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cfbus.config_file import Value
from cfbus.config_sampling import Sampling
from cfbus.logs import display

DEFAULT_FIELD = "captions"
KNOWN = ("name", "model", "prompts", "output_field", "requires", "sampling")
MAX_NAME = 32
_PLACE = re.compile(r"\{(\w+)\}")
_TEXTS = ("name", "model", "output_field", "prompts", "requires")


@dataclass(slots=True)
class Converted:
    """Sections of ours, and what of the stages is not in them."""

    stages: dict[str, Value] = field(default_factory=dict)
    slots: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage of theirs, and its names here."""

    given: Mapping[str, Value]
    name: str
    field: str
    slots: tuple[str, ...]
    prompts: tuple[str, ...]

    @property
    def their_name(self) -> str:
        return str(self.given["name"])

    @property
    def their_field(self) -> str:
        return str(self.given.get("output_field") or DEFAULT_FIELD)


def is_text(path: Sequence[str]) -> bool:
    """Whether a value below ``stages`` is text as written; ``path`` starts after it."""
    return len(path) > 1 and path[1] in _TEXTS


def converted(given: Value, model: Value) -> Converted | None:
    """From the list of stages; None if it is no such list. ``model`` is the one of the whole configuration."""
    entries = _entries(given)
    if entries is None:
        return None
    stages = _named(entries)
    done = Converted()
    for stage in stages:
        _add(done, stage, stages, model)
    return done


def _entries(given: Value) -> list[Mapping[str, Value]] | None:
    entries: list[Mapping[str, Value]] = []
    for each in given if isinstance(given, list) else [None]:
        if not isinstance(each, Mapping) or not isinstance(each.get("name"), str):
            return None
        if not all(_texts(each.get(key) or []) for key in ("prompts", "requires")):
            return None
        if not isinstance(each.get("sampling") or {}, Mapping):
            return None
        entries.append(each)
    return entries


def _texts(value: Value) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _named(entries: Iterable[Mapping[str, Value]]) -> list[_Stage]:
    stages: list[_Stage] = []
    used: set[str] = set()  # fields and slots: both stand in braces
    for given in entries:
        name = _free(str(given["name"]), {stage.name for stage in stages})
        wanted = str(given.get("output_field") or DEFAULT_FIELD)
        taken = wanted in {stage.their_field for stage in stages}
        own = _free(name if taken else wanted, used)
        used.add(own)
        prompts = given.get("prompts") or []
        assert isinstance(prompts, list)
        slots = (own,) if len(prompts) == 1 else tuple(_free(f"{own}_{at}", used) for at in range(1, len(prompts) + 1))
        used.update(slots)
        stages.append(_Stage(given, name, own, slots, tuple(map(str, prompts))))
    return stages


def _free(wanted: str, used: set[str]) -> str:
    """A name as the configuration takes it, which nothing has yet."""
    plain = re.sub(r"[^a-z0-9_]", "_", wanted.lower())
    plain = plain if plain[:1].isalpha() else f"s_{plain}"
    names = [plain[:MAX_NAME], *(f"{plain[: MAX_NAME - 4]}_{number}" for number in range(2, len(used) + 3))]
    return next(name for name in names if name not in used)


def _add(done: Converted, stage: _Stage, stages: Sequence[_Stage], model: Value) -> None:
    names = _places(stage, stages)
    required = {_own_name(str(each), stages) for each in _list(stage.given.get("requires"))}
    for slot, prompt in zip(stage.slots, stage.prompts, strict=True):
        held = [names[place] for place in _PLACE.findall(prompt) if place in names]
        required |= {of for of, _ in held}
        text = _PLACE.sub(lambda found: f"{{{names[found[1]][1]}}}" if found[1] in names else found[0], prompt)
        done.slots[slot] = {"prompt": text, "stage": stage.name}
    order = [each.name for each in stages]
    listed = sorted(required, key=lambda name: order.index(name) if name in order else len(order))
    section: dict[str, Value] = {"requires": [name for name in listed if name != stage.name]}
    section["output_field"] = stage.field
    if stage.given.get("model") not in (None, "", model):
        section["model"] = stage.given["model"]
    sampling = stage.given.get("sampling")
    if isinstance(sampling, Mapping):
        section["sampling"] = {key: value for key, value in sampling.items() if key in Sampling.model_fields}
    done.stages[stage.name] = section
    left = [key for key in stage.given if key not in KNOWN]
    left += [f"sampling.{key}" for key in (sampling or {}) if key not in Sampling.model_fields]  # type: ignore[union-attr]
    if left:
        done.notes.append(
            f"Of the stage {stage.name} is not carried over: {', '.join(display(key, 60) for key in sorted(left))}."
            " All stages of a worker run on one engine, and what a model answers is kept as it came."
        )


def _list(value: Value) -> list[Value]:
    return value if isinstance(value, list) else []


def _own_name(theirs: str, stages: Iterable[_Stage]) -> str:
    return next((stage.name for stage in stages if stage.their_name == theirs), theirs)


def _places(stage: _Stage, stages: Sequence[_Stage]) -> dict[str, tuple[str, str]]:
    """What a name in braces there stands for: the stage here, and the name here. The later one wins, as there."""
    at = next(number for number, each in enumerate(stages) if each is stage)
    names: dict[str, tuple[str, str]] = {}
    for other in (*stages[at + 1 :], *stages[:at]):
        names[other.their_field] = (other.name, other.field)
        for number, slot in enumerate(other.slots):
            names[f"{other.their_name}_output_{number}"] = (other.name, slot)
    return names
