"""The section `captions`: what is written about each image, in which order, and which engine writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from annotated_types import Len
from pydantic import Field, model_validator

from cfbus.config_file import KeyPath
from cfbus.config_sampling import Sampling
from cfbus.config_stages import StageFacts, problem_of
from cfbus.config_types import Flag, Line, Number, SlotName, Whole
from cfbus.config_words import Section

MAX_SLOTS = 16
MAX_PROMPT = 8192
MAX_PROMPTS = 32 * 1024
MAX_STAGES = 8

Engine: TypeAlias = Literal["palette", "scripted", "vllm"]
"""Which engines there are: this is the one place that decides it."""

ENGINES: tuple[str, ...] = get_args(Engine)

ONLY_FOR: Mapping[KeyPath, str] = {("captions", "scripted"): "scripted", ("vllm",): "vllm"}
"""Sections that one engine alone reads."""


class Slot(Section):
    """One named caption of an item. In a file, the prompt alone may stand in its place."""

    short_form: ClassVar[str] = "prompt"

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT, description="What is asked about the image.")
    stage: SlotName = Field(
        default="caption", description="The stage of this caption, one of captions.stages where there are any."
    )
    sampling: Sampling = Field(
        default_factory=Sampling, description="What is different for this caption from its stage and vllm.sampling."
    )


class Stage(Section):
    """Captions that are written together; prompts of later stages may hold them."""

    requires: Annotated[tuple[SlotName, ...], Len(0, MAX_STAGES)] = Field(
        default=(), description="The stages that come before this one; its prompts may hold their captions, as {SLOT}."
    )
    output_field: Line = Field(
        default="",
        max_length=32,
        description="What later prompts call all captions of this stage together; by default the stage's own name.",
    )
    image: Flag = Field(default=True, description="Whether the model sees the image; without it, a stage is cheap.")
    model: Line = Field(
        default="", max_length=512, description="The model of this stage; there is one model for now, vllm.model."
    )
    sampling: Sampling = Field(
        default_factory=Sampling, description="What is different for this stage from vllm.sampling."
    )


class Scripted(Section):
    rate: Number = Field(
        default=0.0, ge=0, le=10**9, description="Items per second of one worker; 0 for as many as it can."
    )
    speed: Number = Field(
        default=1.0,
        ge=0.001,
        le=10**6,
        description="Read by the worker alone: it is so many times as fast as the broker's rate says. For tests and"
        " benchmarks of workers that are not alike.",
    )
    length: Whole = Field(
        default=300, ge=0, le=65536, description="The length of a caption in characters, all of them ASCII."
    )
    failures: Number = Field(default=0.0, ge=0, le=1, description="The share of items that fail, 0 to 1.")
    seed: Whole = Field(default=0, ge=0, le=2**63 - 1, description="The same seed, the same captions.")


class Captions(Section):
    engine: Engine = Field(
        default="palette",
        description="What writes captions: 'palette' describes size, light and colours and needs no GPU"
        " (it is no vision-language model); 'vllm' runs the model of the section vllm; 'scripted' is for tests and"
        " benchmarks.",
    )
    slots: Annotated[Mapping[SlotName, Slot], Len(1, MAX_SLOTS)] = Field(
        default={"caption": Slot(prompt="Describe this image.")},
        description="The captions that every image gets: a name for each, and the prompt that asks for it.",
    )
    stages: Annotated[Mapping[SlotName, Stage], Len(0, MAX_STAGES)] = Field(
        default={},
        description="For captions that are made of captions: a name for each stage, and the stages that it requires.",
    )
    system: str = Field(
        default="", max_length=MAX_PROMPT, description="What the model is told before image and prompt, for all slots."
    )
    missing_column: Literal["empty", "skip", "fail"] = Field(
        default="fail",
        description="What an item that lacks a column of a prompt ({column:title}) gets: 'empty' puts nothing in its"
        " place, 'skip' leaves that caption empty, 'fail' makes the item a dead letter.",
    )
    pixel_budget: Whole = Field(
        default=1 << 20, ge=1024, le=1 << 28, description="Larger images are scaled down to so many pixels."
    )
    max_pixels: Whole = Field(
        default=100_000_000,
        ge=1024,
        le=1 << 31,
        description="Images of more pixels are never decoded; they become dead letters.",
    )
    scripted: Scripted = Field(default_factory=Scripted, description="Settings of the scripted engine.")

    @model_validator(mode="after")
    def _within_limits(self) -> Captions:
        if self.pixel_budget > self.max_pixels:
            raise ValueError(f"pixel_budget ({self.pixel_budget}) is above max_pixels ({self.max_pixels})")
        size = sum(len(slot.prompt.encode()) for slot in self.slots.values()) + len(self.system.encode())
        if size > MAX_PROMPTS:
            raise ValueError(f"the prompts of all slots have {size} bytes together; they may have {MAX_PROMPTS}")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Captions:
        used = {slot.stage for slot in self.slots.values()}
        if not self.stages and used == {"caption"}:
            return self
        stages = {
            name: StageFacts(name, stage.requires, stage.output_field or name) for name, stage in self.stages.items()
        }
        slots = {name: (slot.stage, slot.prompt) for name, slot in self.slots.items()}
        problem = problem_of(stages, slots)
        if problem:
            raise ValueError(problem)
        return self
