"""The section `dataset`: what is captioned, and where it is read from.

It must not open or look at any of it; `cfbus.sources` does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import BeforeValidator, Field, model_validator

from cfbus.config_types import AnyPath, Flag, Line, Whole
from cfbus.config_words import Section
from cfbus.logs import display


def _several(given: object) -> object:
    if isinstance(given, list):
        return tuple(given)
    return (given,) if isinstance(given, str | Path) else given


def _dataset_name(data: dict[str, Any]) -> str:
    """The base name of the first path; what cannot be shown in one line is shown as its escapes."""
    paths: tuple[Path, ...] = data.get("paths", ())
    name = os.path.normpath(paths[0]).rpartition("/")[2] if paths else data.get("source", "")
    return display(name, 100) or "root"


class Dataset(Section):
    source: Literal["folder", "scripted"] = Field(
        default="folder",
        description="Where images come from: 'folder', or 'scripted' for tests and benchmarks.",
    )
    paths: Annotated[tuple[AnyPath, ...], BeforeValidator(_several), Len(0, 1000)] = Field(
        default=(), description="The folders to caption, with all folders in them."
    )
    items: Whole = Field(
        default=0, ge=0, le=10**12, description="How many items there are; only for the scripted source."
    )
    follow_links: Flag = Field(
        default=False, description="Whether to go into folders that are reached by a symbolic link."
    )
    shard_items: Whole = Field(
        default=4096, ge=1, le=10**6, description="How many items of a folder make one shard of the listing."
    )
    name: Line = Field(
        default_factory=_dataset_name,
        min_length=1,
        max_length=200,
        description="What the dataset is called in the tables; by default the name of the first folder.",
    )

    @model_validator(mode="after")
    def _source_has_items(self) -> Dataset:
        if self.source == "scripted" and not self.items:
            raise ValueError("the scripted source needs dataset.items, a whole number from 1")
        if self.source == "folder" and self.items:
            raise ValueError("dataset.items is only for dataset.source: scripted")
        return self
