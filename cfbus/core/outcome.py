"""What a worker is given to do and what comes of it: plain data between core, sources and engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cfbus.bus.columns import NO_INT, NO_SEED
from cfbus.bus.fields import Overrides
from cfbus.bus.messages import FailedItem


class WorkItem(NamedTuple):
    """One item to be captioned, in each of ``slots``, by the spec as it is with ``overrides``."""

    lease: str
    shard: str
    index: int  # type: ignore[assignment]  # a name that tuples have too, and that nobody here means
    key: str
    locator: bytes
    slots: tuple[str, ...]
    overrides: Overrides = ()


class Caption(NamedTuple):
    """One caption as the engine gave it; ``mean_logprob`` is NaN and counts are -1 where unknown."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = NO_INT
    output_tokens: int = NO_INT
    mean_logprob: float = float("nan")
    seed: int = NO_SEED
    flags: int = 0


class ImageFacts(NamedTuple):
    """The picture as it is stored; sizes in pixels and bytes, -1 and zeros where there is none."""

    width: int = NO_INT
    height: int = NO_INT
    format: str = ""
    file_size: int = NO_INT
    sha256: bytes = bytes(32)


class Outcome(NamedTuple):
    """A finished item: a caption for each slot in their order, or why there is none."""

    lease: str
    index: int  # type: ignore[assignment]  # a name that tuples have too, and that nobody here means
    captions: tuple[Caption, ...] = ()
    failure: FailedItem | None = None
    image: ImageFacts = ImageFacts()
    milliseconds: float = 0.0
    url: str = ""
    metadata: str = ""  # a JSON object


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What wrote the captions, as rows say it."""

    engine: str
    model: str
    model_revision: str = ""
