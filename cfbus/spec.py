"""From the configuration to the spec: all that decides what a caption says, as the bus names it.

It must not know who asks: the broker sends the spec to its workers, `cfbus check` tries it out.
"""

from __future__ import annotations

import hashlib
import json

from cfbus.bus import messages as m
from cfbus.config_captions import Captions


def spec_of(captions: Captions) -> m.Spec:
    """All that decides what a caption says, as the bus names it."""
    slots = tuple(
        m.Slot(name=name, prompt=slot.prompt, prompt_id=hashlib.sha256(slot.prompt.encode()).hexdigest()[:12])
        for name, slot in captions.slots.items()
    )
    scripted = captions.scripted
    options: tuple[tuple[str, float], ...] = ()
    if captions.engine == "scripted":
        options = (
            ("rate", scripted.rate),
            ("length", float(scripted.length)),
            ("failures", scripted.failures),
            ("seed", float(scripted.seed)),
        )
    body = {
        "engine": captions.engine,
        "options": options,
        "pixel_budget": captions.pixel_budget,
        "max_pixels": captions.max_pixels,
        "slots": slots,
        "missing_column": captions.missing_column,
    }
    text = json.dumps(body, default=lambda slot: slot.model_dump(), sort_keys=True)
    return m.Spec.model_validate({"hash": hashlib.sha256(text.encode()).hexdigest()[:16], **body})
