"""What messages are made of: limits, bounded scalar types, and the two parts that configurations share with the bus.

Knows no message but their base. Every type here has a bound, so that a header made of them has one too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PROTOCOL_VERSION = 1
KIB = 1024
MAX_FRAME_BYTES = 512 * KIB  # what a socket takes at all
MAX_HEADER_BYTES = 64 * KIB
PAGE_BYTES = 48 * KIB  # what is told in pages is split so that a header stays below this, but for its last entry
RESULT_SPLIT_BYTES = 256 * KIB  # a result is closed before its payload passes this
MAX_CAPTION_BYTES = 64 * KIB
MAX_ITEM_TEXT_BYTES = 192 * KIB  # all captions of one item together
MAX_SLOTS = 16
MAX_PROMPT_CHARS = 8192
MAX_PROMPTS_BYTES = 32 * KIB  # all prompts of a spec together: it travels in a header
MAX_CHUNK_ITEMS = 65536
MAX_SHARD_ITEMS = 1 << 31
MAX_RANGES = 4096
MAX_HELD = 512


class Role(StrEnum):
    """What a key is allowed to do."""

    WORKER = "worker"
    WRITER = "writer"
    FEEDER = "feeder"
    MONITOR = "monitor"
    ADMIN = "admin"
    ENROL = "enrol"


def _ascending(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    last = -1
    for start, end in pairs:
        if start <= last or end <= start:
            raise ValueError("ranges must be non-empty, ascending and apart")
        last = end
    return pairs


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", description="64 random bits, hexadecimal")]
Word = Annotated[str, Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(max_length=1024)]
Reason = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
PassNumber = Annotated[int, Field(ge=1, lt=1 << 31)]
Index = Annotated[int, Field(ge=0, lt=MAX_SHARD_ITEMS)]
End = Annotated[int, Field(gt=0, le=MAX_SHARD_ITEMS)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
SlotName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Slots = Annotated[tuple[SlotName, ...], Field(min_length=1, max_length=MAX_SLOTS)]
Ids = Annotated[tuple[Id, ...], Field(max_length=MAX_HELD)]
Ranges = Annotated[
    tuple[tuple[Index, End], ...],
    Field(max_length=MAX_RANGES, description="half-open [start, end) pairs of item indices, ascending, not touching"),
    AfterValidator(_ascending),
]


class Part(BaseModel):
    """Base of everything inside a message."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Message(Part):
    """Base of all messages. ``TAG`` names the message on the wire; ``PAYLOAD`` says whether it has one."""

    TAG: ClassVar[str] = ""
    PAYLOAD: ClassVar[bool] = False


class Slot(Part):
    """One named caption of an item."""

    name: SlotName
    stage: Word = "caption"
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
    prompt_id: Word


def _fitting(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    if sum(len(slot.prompt.encode()) for slot in slots) > MAX_PROMPTS_BYTES:
        raise ValueError(f"the prompts of all slots together may have {MAX_PROMPTS_BYTES} bytes")
    return slots


class Spec(Part):
    """All that decides what a caption says, named by its hash."""

    hash: Id
    engine: Literal["palette", "scripted"]
    options: Annotated[tuple[tuple[Word, Finite], ...], Field(max_length=16)] = ()
    pixel_budget: Annotated[int, Field(ge=1, le=1 << 28)]
    max_pixels: Annotated[int, Field(ge=1, le=1 << 32)]
    slots: Annotated[tuple[Slot, ...], Field(min_length=1, max_length=MAX_SLOTS), AfterValidator(_fitting)]
    missing_column: Literal["empty", "skip", "fail"] = "fail"
