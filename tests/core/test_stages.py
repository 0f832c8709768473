"""Rounds of captions: what is asked for when, and what later prompts hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from cfbus.bus.fields import Slot, Spec, Stage
from cfbus.core.stages import named_results, rounds_of, sees_image


def spec(stages: Mapping[str, Sequence[str]], slots: Mapping[str, tuple[str, str]]) -> Spec:
    return Spec(
        hash="0" * 16,
        engine="vllm",
        pixel_budget=1024,
        max_pixels=1024,
        stages=tuple(
            Stage(name=name, requires=tuple(requires), output_field=f"{name}_all", image=name != "merge")
            for name, requires in stages.items()
        ),
        slots=tuple(
            Slot(name=name, stage=stage, prompt=prompt, prompt_id="p") for name, (stage, prompt) in slots.items()
        ),
    )


CHAIN = spec(
    {"see": (), "check": ("see",), "merge": ("check",)},
    {
        "short": ("see", "Short."),
        "tags": ("see", "Tags."),
        "doubt": ("check", "Is {short} right?"),
        "final": ("merge", "{see_all} {doubt} {other} {final}"),
    },
)


def names(found: Sequence[Sequence[Slot]]) -> list[list[str]]:
    return [[slot.name for slot in each] for each in found]


def test_without_stages_there_is_one_round() -> None:
    flat = spec({}, {"a": ("caption", "{b}"), "b": ("caption", "x")})
    assert names(rounds_of(flat, ("b", "a"))) == [["b", "a"]]
    assert named_results(flat, flat.slots[0], {"b": "no"}) == {}
    assert sees_image(flat, flat.slots[0])


def test_what_a_prompt_holds_is_asked_for_first_wanted_or_not() -> None:
    assert names(rounds_of(CHAIN, ("final",))) == [["short", "tags"], ["doubt"], ["final"]]
    assert names(rounds_of(CHAIN, ("doubt",))) == [["short"], ["doubt"]]
    assert names(rounds_of(CHAIN, ("tags",))) == [["tags"]]


def test_names_stand_for_earlier_captions_alone() -> None:
    final = CHAIN.slots[3]
    texts = {"short": "S", "tags": "T", "doubt": "D", "final": "F"}
    named = named_results(CHAIN, final, texts)
    assert named == {"short": "S", "tags": "T", "doubt": "D", "see_all": "S\nT", "check_all": "D"}
    assert named_results(CHAIN, CHAIN.slots[0], texts) == {}
    assert not sees_image(CHAIN, final)


@given(st.data())
def test_a_plan_of_any_shape_is_in_order_and_ends(data: st.DataObject) -> None:
    stage_names = [f"s{at}" for at in range(data.draw(st.integers(1, 8)))]
    requires = {name: data.draw(st.lists(st.sampled_from(stage_names), unique=True)) for name in stage_names}
    slots = {f"c{at}": (name, " ".join(f"{{c{n}}}" for n in range(8))) for at, name in enumerate(stage_names)}
    made = spec(requires, slots)  # with circles, which no configuration has
    wanted = data.draw(st.lists(st.sampled_from(list(slots)), min_size=1, unique=True))
    found = [name for each in names(rounds_of(made, wanted)) for name in each]
    assert len(found) == len(set(found))
    assert set(wanted) <= set(found)
