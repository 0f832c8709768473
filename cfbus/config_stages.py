"""What makes stages a plan: each that is required is there, none requires itself, and prompts hold what exists by then.

It must not know models, sampling or the bus. Each sentence is the end of a message about `captions`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cfbus.logs import display

_PLACE: Final = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")


@dataclass(frozen=True, slots=True)
class StageFacts:
    """A stage as its plan sees it."""

    name: str
    requires: tuple[str, ...]
    output_field: str


def problem_of(stages: Mapping[str, StageFacts], slots: Mapping[str, tuple[str, str]]) -> str:
    """What is wrong with these stages and slots (stage and prompt of each); empty if nothing is."""
    return _of_stages(stages) or _of_names(stages, slots) or _of_slots(stages, slots)


def _of_stages(stages: Mapping[str, StageFacts]) -> str:
    for stage in stages.values():
        for name in stage.requires:
            if name not in stages:
                return f"stages.{stage.name}.requires: there is no stage {name!r}; {_known(stages)}"
        if stage.name in before(stages, stage.name):
            return f"stages.{stage.name} requires itself, by way of {', '.join(stage.requires)}"
    return ""


def _of_names(stages: Mapping[str, StageFacts], slots: Mapping[str, tuple[str, str]]) -> str:
    """One name means one thing in a prompt; a stage and its only slot may share theirs."""
    seen: dict[str, str] = {}
    for stage in stages.values():
        name = stage.output_field
        if not re.fullmatch(_PLACE.pattern[2:-2], name):
            return f"stages.{stage.name}.output_field: {display(name, 40)!r} is no name of small letters, digits and _"
        if name in seen:
            return f"the stages {seen[name]} and {stage.name} have the same output_field {name!r}"
        seen[name] = stage.name
    for name, (of, _) in slots.items():
        alone = [stage for stage, _ in slots.values()].count(of) == 1
        if name in seen and not (seen[name] == of and alone):
            return f"{name!r} is a slot and what stage {seen[name]} is called in prompts; give it an output_field"
    return ""


def _of_slots(stages: Mapping[str, StageFacts], slots: Mapping[str, tuple[str, str]]) -> str:
    fields = {stage.output_field: stage.name for stage in stages.values()}
    for name, (of, prompt) in slots.items():
        if of not in stages:
            return f"slots.{name}.stage: there is no stage {of!r}; {_known(stages)}"
        earlier = before(stages, of)
        for place in places(prompt):
            source = slots[place][0] if place in slots else fields.get(place)
            if source is not None and source not in earlier:
                return f"slots.{name}: its prompt has {{{place}}}, so the stage {of} must require {source}"
    empty = set(stages) - {of for of, _ in slots.values()}
    return f"no slot is of the stage {min(empty)}" if empty else ""


def places(prompt: str) -> tuple[str, ...]:
    """The names in braces that a prompt has, each once."""
    return tuple(dict.fromkeys(_PLACE.findall(prompt)))


def before(stages: Mapping[str, StageFacts], name: str) -> set[str]:
    """All stages that come before this one; itself too when it goes round in a circle."""
    found: set[str] = set()
    todo = list(stages[name].requires)
    while todo:
        each = todo.pop()
        if each not in found and each in stages:
            found.add(each)
            todo += stages[each].requires
    return found


def _known(stages: Mapping[str, StageFacts]) -> str:
    return f"the stages are {', '.join(stages)}" if stages else "give captions.stages"
