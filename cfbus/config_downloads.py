"""The section `dataset.downloads`: how images are fetched from the addresses in a list or a table.

It must not fetch anything; `cfbus.sources.downloads` does.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Len
from pydantic import BeforeValidator, Field

from cfbus.config_types import Flag, Line, Whole
from cfbus.config_words import Section


def _several(given: object) -> object:
    if isinstance(given, list):
        return tuple(given)
    return (given,) if isinstance(given, str) else given


class Downloading(Section):
    at_once: Whole = Field(
        default=64, ge=1, le=1024, description="How many images a worker downloads at the same time."
    )
    per_host: Whole = Field(default=8, ge=1, le=1024, description="How many of them from one host.")
    timeout_seconds: Whole = Field(
        default=20,
        ge=1,
        le=600,
        description="A server that says nothing for so long, or sends less than 1 KiB a second after it, is given up.",
    )
    total_seconds: Whole = Field(
        default=120, ge=1, le=3600, description="The most that an image may take, all attempts and waiting included."
    )
    attempts: Whole = Field(
        default=3, ge=1, le=10, description="How often an image is asked for when that may go better the next time."
    )
    max_redirects: Whole = Field(default=5, ge=0, le=20, description="How many redirects are followed.")
    max_mib: Whole = Field(default=64, ge=1, le=1024, description="The most that an image may have (MiB).")
    user_agent: Line = Field(
        default="cfbus", min_length=1, max_length=200, description="What servers are told asks them (User-Agent)."
    )
    disallowed_header_directives: Annotated[tuple[Line, ...], BeforeValidator(_several), Len(0, 20)] = Field(
        default=("noai", "noimageai", "noindex", "noimageindex"),
        description="An image whose server says one of these in X-Robots-Tag is not captioned; [] for all the same.",
    )
    hosts: Annotated[tuple[Line, ...], BeforeValidator(_several), Len(0, 1000)] = Field(
        default=(),
        description="The hosts that may be asked, such as images.example.org or *.example.org; by default all that are"
        " public. For redirects too.",
    )
    allow_private_addresses: Flag = Field(
        default=False,
        description="Whether hosts of this machine and of private networks may be asked (never cloud metadata).",
    )
