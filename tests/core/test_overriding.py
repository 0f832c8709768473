"""A spec with some of it otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from cfbus.bus.messages import Spec
from cfbus.config_captions import Captions
from cfbus.config_vllm import Vllm
from cfbus.core.overriding import overridden
from cfbus.spec import spec_of

SLOTS: dict[str, dict[str, Any]] = {
    "short": {"prompt": "Short."},
    "long": {"prompt": "Long.", "sampling": {"max_tokens": 300}},
}
VLLM = spec_of(
    Captions.model_validate({"engine": "vllm", "slots": SLOTS}), Vllm.model_validate({"model": "m/m", "revision": "1"})
)
SCRIPTED = spec_of(Captions.model_validate({"engine": "scripted", "slots": {"short": {"prompt": "Short."}}}), Vllm())
PALETTE = spec_of(Captions.model_validate({"engine": "palette", "slots": {"short": {"prompt": "Short."}}}), Vllm())


def test_each_slot_is_sampled_otherwise_and_the_rest_is_kept() -> None:
    made = overridden(VLLM, (("max_tokens", "512"), ("stop", '["END"]')))
    for before, after in zip(VLLM.slots, made.slots, strict=True):
        assert before.sampling is not None
        assert after.sampling == before.sampling.model_copy(update={"max_tokens": 512, "stop": ("END",)})
        assert after.prompt == before.prompt
    assert made.hash != VLLM.hash
    assert made == overridden(VLLM, (("max_tokens", "512"), ("stop", '["END"]')))
    assert made.model_copy(update={"hash": VLLM.hash, "slots": VLLM.slots}) == VLLM


def test_the_hash_is_that_of_a_configuration_that_says_the_same() -> None:
    same = {name: {"prompt": slot["prompt"], "sampling": {"max_tokens": 7}} for name, slot in SLOTS.items()}
    configured = spec_of(
        Captions.model_validate({"engine": "vllm", "slots": same}),
        Vllm.model_validate({"model": "m/m", "revision": "1"}),
    )
    assert overridden(VLLM, (("max_tokens", "7"),)) == configured


def test_options_of_an_engine_that_has_some() -> None:
    assert dict(overridden(SCRIPTED, (("length", "50"),)).options)["length"] == 50
    assert overridden(SCRIPTED, ()) is SCRIPTED


@pytest.mark.parametrize(
    ("spec", "name", "value", "said"),
    [
        (VLLM, "max_token", "5", "did you mean max_tokens"),
        (VLLM, "colour", "5", "there are temperature"),
        (VLLM, "max_tokens", "0", "max_tokens: Input should be greater"),
        (VLLM, "max_tokens", '"many"', "max_tokens: Input should be a valid integer"),
        (VLLM, "max_tokens", "many", "is no value"),
        (SCRIPTED, "length", '"x"', "options"),
        (PALETTE, "length", "5", "nothing that could be otherwise"),
    ],
)
def test_what_cannot_be(spec: Spec, name: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        overridden(spec, ((name, value),))
