"""How the next token of a caption is chosen: the keys of `vllm.sampling`, which stages and slots may change.

It must not know who asks for it. What a section of these keys was not given says nothing: `changed` lays several
over each other.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Len
from pydantic import BeforeValidator, Field

from cfbus.config_types import Flag, Number, Whole
from cfbus.config_words import Section

MAX_STOPS = 32


def _several(given: object) -> object:
    if isinstance(given, list):
        return tuple(given)
    return (given,) if isinstance(given, str) else given


Text = Annotated[str, Field(min_length=1, max_length=256)]


class Sampling(Section):
    """How the next token is chosen."""

    temperature: Number = Field(
        default=0.7, ge=0, le=2, description="How freely tokens are chosen; 0 for the likeliest."
    )
    top_p: Number = Field(
        default=0.95,
        ge=0.01,
        le=1,
        description="Only the likeliest tokens that have this probability together; 1 for all.",
    )
    top_k: Whole = Field(
        default=0, ge=-1, le=10**6, description="Only so many of the likeliest tokens; 0 or -1 for all."
    )
    min_p: Number = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Only tokens with this share of the likeliest one's probability; 0 for all.",
    )
    max_tokens: Whole = Field(default=256, ge=1, le=65536, description="The most tokens of a caption.")
    repetition_penalty: Number = Field(
        default=1.05,
        ge=0.01,
        le=10,
        description="Above 1: tokens of prompt and caption become less likely to come again.",
    )
    presence_penalty: Number = Field(
        default=0.0, ge=-2, le=2, description="Above 0: tokens of the caption become less likely to come again."
    )
    frequency_penalty: Number = Field(
        default=0.0, ge=-2, le=2, description="The same, more so the more often they came."
    )
    stop: Annotated[tuple[Text, ...], BeforeValidator(_several), Len(0, MAX_STOPS)] = Field(
        default=(), description="Texts that end a caption, beside the model's own end of text."
    )
    seed: Whole | None = Field(
        default=None, ge=0, le=2**63 - 1, description="The same seed, nearly the same captions; none for chance."
    )
    skip_special_tokens: Flag = Field(
        default=True, description="Whether the model's control tokens are left out of captions."
    )


def changed(base: Sampling, *changes: Sampling) -> Sampling:
    """``base`` with the keys that were given in ``changes``, the later before the earlier."""
    given = {key: value for change in changes for key, value in change.model_dump(exclude_unset=True).items()}
    return base.model_copy(update=given)
