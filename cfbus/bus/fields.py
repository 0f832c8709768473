"""What messages are made of: limits, bounded scalar types, and the two parts that configurations share with the bus.

Knows no message but their base. Every type here has a bound, so that a header made of them has one too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

PROTOCOL_VERSION = 1
KIB = 1024
MAX_FRAME_BYTES = 512 * KIB  # what a socket takes at all
MAX_HEADER_BYTES = 64 * KIB
PAGE_BYTES = 48 * KIB  # what is told in pages is split so that a header stays below this, but for its last entry
RESULT_SPLIT_BYTES = 256 * KIB  # a result is closed before its payload passes this
PIECE_BYTES = 256 * KIB  # of an image, from a feeder
MAX_CAPTION_BYTES = 64 * KIB
MAX_ITEM_TEXT_BYTES = 192 * KIB  # all captions of one item together
MAX_SLOTS = 16
MAX_PROMPT_CHARS = 8192
MAX_PROMPTS_BYTES = 32 * KIB  # all texts of a spec together: it travels in a header
MAX_STAGES = 8
MAX_STOPS = 32
MAX_CHUNK_ITEMS = 65536
MAX_SHARD_ITEMS = 1 << 31
MAX_RANGES = 4096
MAX_HELD = 512
MAX_TALLIED = 64  # slots, and contributors, that a TALLY names
LENGTH_CLASSES = 12
MAX_PASSES = 64  # that a STATE names
MAX_ROWS = 256  # of the table in a page of an answer


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
Dataset = Annotated[str, Field(max_length=256)]
Cells = Annotated[tuple[Text, ...], Field(max_length=16)]
Reason = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
PassNumber = Annotated[int, Field(ge=1, lt=1 << 31)]
Index = Annotated[int, Field(ge=0, lt=MAX_SHARD_ITEMS)]
End = Annotated[int, Field(gt=0, le=MAX_SHARD_ITEMS)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Endpoint = Annotated[str, Field(pattern=r"^tcp://[^\s/]{1,240}:[0-9]{1,5}$", description="tcp://HOST:PORT")]
PublicKey = Annotated[str, Field(pattern=r"^[!-~]{40}$", description="a CURVE public key, Z85")]
SlotName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Slots = Annotated[tuple[SlotName, ...], Field(min_length=1, max_length=MAX_SLOTS)]
MAX_OVERRIDE_CHARS = 256
MAX_OVERRIDES = 16
Override = Annotated[
    tuple[SlotName, Annotated[str, Field(min_length=1, max_length=MAX_OVERRIDE_CHARS)]],
    Field(description="what of the spec is otherwise, and its value as JSON"),
]
Overrides = Annotated[tuple[Override, ...], Field(max_length=MAX_OVERRIDES)]
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


class Sampling(Part):
    """How the next token of a caption is chosen, as vLLM names it."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(ge=0.01, le=1)]
    top_k: Annotated[int, Field(ge=-1, le=10**6)]
    min_p: Annotated[float, Field(ge=0, le=1)]
    max_tokens: Annotated[int, Field(ge=1, le=65536)]
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)]
    presence_penalty: Annotated[float, Field(ge=-2, le=2)]
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)]
    stop: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=MAX_STOPS)]
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None
    skip_special_tokens: bool


class Stage(Part):
    """Captions that are written together, after those that they require."""

    name: SlotName
    requires: Annotated[tuple[SlotName, ...], Field(max_length=MAX_STAGES)]
    output_field: SlotName
    image: bool


class Model(Part):
    """The model that a worker must have to caption by a spec."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    revision: Annotated[str, Field(max_length=200)]


class Slot(Part):
    """One named caption of an item."""

    name: SlotName
    stage: SlotName = "caption"
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
    prompt_id: Annotated[str, Field(pattern=r"^[0-9a-z_]{1,32}$")]
    sampling: Sampling | None = None


class Spec(Part):
    """All that decides what a caption says, named by its hash."""

    hash: Id
    engine: Literal["palette", "scripted", "vllm"]
    model: Model | None = None
    options: Annotated[tuple[tuple[SlotName, Finite], ...], Field(max_length=16)] = ()
    pixel_budget: Annotated[int, Field(ge=1, le=1 << 28)]
    max_pixels: Annotated[int, Field(ge=1, le=1 << 32)]
    system: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] = ""
    stages: Annotated[tuple[Stage, ...], Field(max_length=MAX_STAGES)] = ()
    slots: Annotated[tuple[Slot, ...], Field(min_length=1, max_length=MAX_SLOTS)]
    missing_column: Literal["empty", "skip", "fail"] = "fail"

    @model_validator(mode="after")
    def _texts_fit(self) -> Spec:
        texts = [self.system, *(slot.prompt for slot in self.slots)]
        texts += [stop for slot in self.slots if slot.sampling for stop in slot.sampling.stop]
        if sum(len(text.encode()) for text in texts) > MAX_PROMPTS_BYTES:
            raise ValueError(f"the prompts of all slots together may have {MAX_PROMPTS_BYTES} bytes")
        return self
