"""From the configuration to the spec: all that decides what a caption says, as the bus names it.

It must not know who asks: the broker sends the spec to its workers, `cfbus check` tries it out.
"""

from __future__ import annotations

import hashlib

from cfbus.bus import messages as m
from cfbus.bus.fields import Model, Sampling, Stage
from cfbus.config_captions import Captions
from cfbus.config_captions import Slot as SlotSection
from cfbus.config_captions import Stage as StageSection
from cfbus.config_sampling import changed
from cfbus.config_vllm import Vllm
from cfbus.core.overriding import named


def spec_of(captions: Captions, vllm: Vllm) -> m.Spec:
    """All that decides what a caption says, as the bus names it; of ``vllm`` only what its engine is asked for."""
    for_vllm = captions.engine == "vllm"
    slots = tuple(
        m.Slot(
            name=name,
            stage=slot.stage,
            prompt=slot.prompt,
            prompt_id=hashlib.sha256(slot.prompt.encode()).hexdigest()[:12],
            sampling=_sampling(captions, vllm, slot) if for_vllm else None,
        )
        for name, slot in captions.slots.items()
    )
    body = {
        "engine": captions.engine,
        "model": Model(name=vllm.model, revision=vllm.revision) if for_vllm else None,
        "options": _options(captions),
        "pixel_budget": captions.pixel_budget,
        "max_pixels": captions.max_pixels,
        "system": captions.system,
        "stages": _stages(captions),
        "slots": slots,
        "missing_column": captions.missing_column,
    }
    return named(body)


def _options(captions: Captions) -> tuple[tuple[str, float], ...]:
    if captions.engine != "scripted":
        return ()
    scripted = captions.scripted
    return (
        ("rate", scripted.rate),
        ("length", float(scripted.length)),
        ("failures", scripted.failures),
        ("seed", float(scripted.seed)),
    )


def _stages(captions: Captions) -> tuple[Stage, ...]:
    return tuple(
        Stage(name=name, requires=stage.requires, output_field=stage.output_field or name, image=stage.image)
        for name, stage in captions.stages.items()
    )


def _sampling(captions: Captions, vllm: Vllm, slot: SlotSection) -> Sampling:
    stage = captions.stages.get(slot.stage, StageSection())
    return Sampling.model_validate(changed(vllm.sampling, stage.sampling, slot.sampling).model_dump())
