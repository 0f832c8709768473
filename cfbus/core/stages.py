"""In which order the captions of an item are asked for. Pure.

Invariants: a caption comes after those that its prompt holds; what nobody wants and no wanted prompt holds is not
asked for; the first round is never empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cfbus.bus.fields import Slot, Spec, Stage
from cfbus.core.prompts import names_in

Rounds = tuple[tuple[Slot, ...], ...]


def rounds_of(spec: Spec, wanted: Iterable[str]) -> Rounds:
    """The slots to ask for, a round after the other: the wanted ones, and those that they are made of.

    A pass may want a slot whose parts were captioned in an earlier pass: these are asked for again and not kept.
    Every name in ``wanted`` must be a slot of the spec.
    """
    slots = {slot.name: slot for slot in spec.slots}
    needed: dict[str, int] = {}
    todo = list(dict.fromkeys(wanted))
    while todo:
        name = todo.pop(0)
        if name not in needed:
            needed[name] = _level(spec, slots[name].stage)
            todo += parts_of(spec, slots[name])
    levels = sorted(set(needed.values()))
    return tuple(tuple(slots[name] for name in needed if needed[name] == level) for level in levels)


def parts_of(spec: Spec, slot: Slot) -> list[str]:
    """The slots whose captions this slot's prompt holds."""
    earlier = _before(spec, slot.stage)
    fields = {stage.output_field: stage.name for stage in earlier.values()}
    named = names_in(slot.prompt)
    return [
        each.name
        for each in spec.slots
        if each.stage in earlier and (each.name in named or each.stage in {fields.get(name) for name in named})
    ]


def named_results(spec: Spec, slot: Slot, texts: Mapping[str, str]) -> dict[str, str]:
    """What the names in this slot's prompt stand for, by the captions that are there."""
    named: dict[str, str] = {}
    for stage in _before(spec, slot.stage).values():
        of_stage = {
            each.name: texts[each.name] for each in spec.slots if each.stage == stage.name and each.name in texts
        }
        named[stage.output_field] = "\n".join(of_stage.values())
        named |= of_stage
    return named


def sees_image(spec: Spec, slot: Slot) -> bool:
    """Whether the model is shown the image for this slot."""
    return all(stage.image for stage in spec.stages if stage.name == slot.stage)


def _before(spec: Spec, name: str) -> dict[str, Stage]:
    stages = {stage.name: stage for stage in spec.stages}
    found: dict[str, Stage] = {}
    todo = list(stages[name].requires) if name in stages else []
    while todo:
        each = todo.pop()
        if each in stages and each not in found:
            found[each] = stages[each]
            todo += stages[each].requires
    return found


def _level(spec: Spec, name: str) -> int:
    """How many stages lie before, at the longest; a circle, which no configuration has, ends too."""
    stages = {stage.name: stage for stage in spec.stages}
    level, front = 0, {name}
    while level < len(stages):
        front = {each for stage in front & stages.keys() for each in stages[stage].requires}
        if not front:
            break
        level += 1
    return level
