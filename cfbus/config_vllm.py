"""The section `vllm`: the model, how captions are sampled, and any other argument of vLLM's engine.

It must not know vLLM: which further arguments there are is known by the vLLM that is installed, so they pass as they
were written and the engine checks them. ``Loaded.origins`` has the line of each.

Invariants: what is typed here has bounds; a prompt stands here or in `captions.slots`, never in both (`cfbus.config`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Len
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from cfbus.config_captions import MAX_SLOTS, Slot
from cfbus.config_file import Value
from cfbus.config_sampling import Sampling
from cfbus.config_types import Flag, Line, Number, SlotName, Whole
from cfbus.config_words import Section
from cfbus.logs import display

MODALITIES = ("image", "video", "audio")
MAX_ARGUMENTS = 200

_ARGUMENT = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _modality(name: str) -> str:
    if name not in MODALITIES:
        raise ValueError(f"one of {', '.join(MODALITIES)}")
    return name


def prompt_names(count: int) -> list[str]:
    """What prompts without names are called: a prompt that is added at the end renames no other."""
    return [f"caption_{number}" if number > 1 else "caption" for number in range(1, count + 1)]


def _named(given: object) -> object:
    if isinstance(given, list) and len(given) <= MAX_SLOTS:
        return dict(zip(prompt_names(len(given)), given, strict=True))
    if given is None or (isinstance(given, Mapping) and len(given) <= MAX_SLOTS):
        return given or {}
    raise ValueError(f"a list of at most {MAX_SLOTS} prompts, or a section with a name for each")


Modality = Annotated[str, AfterValidator(_modality)]


class Vllm(Section):
    """Settings of the vLLM engine. What is no key of it is an argument of vLLM's engine, passed on as written."""

    model_config = ConfigDict(extra="allow")

    model: Line = Field(
        default="Qwen/Qwen2.5-VL-3B-Instruct",
        min_length=1,
        max_length=512,
        description="The vision-language model: a name on the Hugging Face hub, or the whole path of a folder.",
    )
    revision: Line = Field(
        default="", max_length=200, description="Branch, tag or commit of the model; empty for its newest."
    )
    dtype: Literal["auto", "bfloat16", "float16", "half", "float32", "float"] = Field(
        default="auto", description="The numbers that the model computes with; 'auto' for what it was made with."
    )
    tensor_parallel_size: Whole = Field(
        default=1,
        ge=1,
        le=64,
        description="How many GPUs share one model: all that worker.gpu_id names, or those from its number on.",
    )
    gpu_memory_utilization: Number = Field(
        default=0.92, ge=0.01, le=1, description="The share of the GPU's memory that vLLM takes."
    )
    max_model_len: Whole | None = Field(
        default=None,
        ge=16,
        le=1 << 24,
        description="The most tokens of image, prompt and caption; none for what the model can.",
    )
    max_num_seqs: Whole | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="How many captions are written at the same time; none for what vLLM chooses.",
    )
    enforce_eager: Flag = Field(
        default=False, description="Whether to go without CUDA graphs: a faster start and slower captions."
    )
    limit_mm_per_prompt: Annotated[Mapping[Modality, Annotated[Whole, Field(ge=0, le=64)]], Len(0, 3)] = Field(
        default={"image": 1}, description="How many images, videos and sounds a prompt may have."
    )
    golden_check: Flag = Field(
        default=True,
        description="Whether a picture is captioned twice at the start, to see that what is cached changes nothing.",
    )
    trust_remote_code: Flag = Field(
        default=False, description="Whether to run code that comes with the model, with all that this process may do."
    )
    sampling: Sampling = Field(default_factory=Sampling, description="How the next token is chosen.")
    inference_prompts: Annotated[Mapping[SlotName, Slot], BeforeValidator(_named)] = Field(
        default={},
        description="Another way to say captions.slots: a list of prompts (they become the slots caption,"
        " caption_2, …), or a name for each.",
    )

    @model_validator(mode="after")
    def _arguments_have_names(self) -> Vllm:
        names = list(self.model_extra or ())
        if "batch_size" in names:
            raise ValueError(
                "batch_size: nothing waits for a batch here; worker.concurrency says how many are in flight"
            )
        for name in names:
            if not _ARGUMENT.fullmatch(name):
                raise ValueError(f"{display(name, 80)}: no argument of an engine has such a name")
        if len(names) > MAX_ARGUMENTS:
            raise ValueError(f"{len(names)} arguments for the engine; there may be {MAX_ARGUMENTS}")
        return self

    @property
    def engine_arguments(self) -> dict[str, Value]:
        """What was written beside the keys of this section, unchecked."""
        return dict(self.model_extra or {})
