"""A spec with some of it otherwise, as a redo wants it. Pure.

Invariants: what comes out is a whole spec with a hash of its own; the same spec and overrides always give the same one;
what the spec's engine does not know is an error that names what it knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache

from pydantic import ValidationError

from cfbus.bus.fields import Overrides, Sampling, Slot, Spec

SAMPLING = tuple(Sampling.model_fields)


def named(body: Mapping[str, object]) -> Spec:
    """The spec with these fields, and with the hash that names them."""
    text = json.dumps(body, default=lambda part: part.model_dump(), sort_keys=True)
    return Spec.model_validate({"hash": hashlib.sha256(text.encode()).hexdigest()[:16], **body})


@lru_cache(maxsize=64)
def overridden(spec: Spec, overrides: Overrides) -> Spec:
    """The spec as it is with these. ``ValueError``, with a sentence, where that cannot be."""
    if not overrides:
        return spec
    changes = {name: _value(name, text) for name, text in overrides}
    known = SAMPLING if spec.engine == "vllm" else tuple(name for name, _ in spec.options)
    for name in changes:
        if name not in known:
            raise ValueError(_unknown(name, spec.engine, known))
    body: dict[str, object] = {name: getattr(spec, name) for name in Spec.model_fields if name != "hash"}
    try:
        if spec.engine == "vllm":
            body["slots"] = tuple(_sampled(slot, changes) for slot in spec.slots)
        else:
            body["options"] = tuple((name, changes.get(name, value)) for name, value in spec.options)
        return named(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _value(name: str, text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no value; texts have quotes around them") from None
    return tuple(value) if isinstance(value, list) else value


def _sampled(slot: Slot, changes: Mapping[str, object]) -> Slot:
    if slot.sampling is None:
        return slot
    return slot.model_copy(update={"sampling": Sampling.model_validate({**slot.sampling.model_dump(), **changes})})


def _unknown(name: str, engine: str, known: tuple[str, ...]) -> str:
    if not known:
        return f"the engine {engine} has nothing that could be otherwise"
    near = get_close_matches(name, known, 1)
    return (
        f"{name} is not known; did you mean {near[0]}?"
        if near
        else f"{name} is not known; there are {', '.join(known)}"
    )
