"""The section `dataset`: what is captioned, and where it is read from.

It must not open or look at any of it; `cfbus.sources` does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cfbus.config_types import AnyPath, Flag, Line, Whole
from cfbus.config_words import Section
from cfbus.logs import display

MAX_PATHS = 5000
_TAR = re.compile(r"\.(tar|tgz)\b", re.IGNORECASE)
_PATTERN = frozenset("*?[{")


def _several(given: object) -> object:
    if isinstance(given, list):
        return tuple(given)
    return (given,) if isinstance(given, str | Path) else given


def _not_too_many(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    if len(paths) > MAX_PATHS:
        raise ValueError(
            f"a list of at most {MAX_PATHS} paths; tars can be named by a pattern in quotes: 'shards/*.tar'"
        )
    return paths


def _is_tar(path: Path) -> bool:
    return _TAR.search(path.name) is not None


Kind = Literal["folder", "webdataset", "scripted"]


def _source(data: dict[str, Any]) -> Kind:
    """Tars are known by their names; whatever else is named is taken for a folder of pictures."""
    return "webdataset" if any(map(_is_tar, data.get("paths", ()))) else "folder"


def _dataset_name(data: dict[str, Any]) -> str:
    """The base name of the first folder; what cannot be shown in one line is shown as its escapes."""
    paths: tuple[Path, ...] = data.get("paths", ())
    if not paths:
        return display(data.get("source", ""), 100) or "root"
    first = Path(os.path.normpath(paths[0]))
    if data.get("source") == "webdataset":
        while first != first.parent and (_is_tar(first) or _PATTERN & set(str(first))):
            first = first.parent
    return display(first.name, 100) or "root"


class Dataset(Section):
    paths: Annotated[tuple[AnyPath, ...], BeforeValidator(_several), AfterValidator(_not_too_many)] = Field(
        default=(),
        description="What to caption: folders of pictures, with all folders in them; or tars, as patterns like"
        " shards/*.tar and shard-{0000..0099}.tar, or folders that hold tars.",
    )
    source: Kind = Field(
        default_factory=_source,
        description="What 'paths' are: 'folder' for pictures in folders, 'webdataset' for tars of samples; by default"
        " known by their names. 'scripted' is for tests and benchmarks.",
    )
    image_column: Line = Field(
        default="",
        max_length=200,
        description="Which member of a tar's sample is the image, by its suffix: 'jpg', or 'input.png;input.jpg'; by"
        " default the first that is called like a picture.",
    )
    keep_columns: Annotated[tuple[Line, ...], BeforeValidator(_several), Len(0, 100)] = Field(
        default=(),
        description="The columns of an item (of its .json, .txt, .cls in a tar) that are kept in 'metadata' beside its"
        " captions; '*' for all.",
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
    def _fits_its_source(self) -> Dataset:
        if self.source == "scripted" and not self.items:
            raise ValueError("the scripted source needs dataset.items, a whole number from 1")
        if self.source != "scripted" and self.items:
            raise ValueError("dataset.items is only for dataset.source: scripted")
        if self.source != "webdataset" and self.image_column:
            raise ValueError("dataset.image_column is only for dataset.source: webdataset")
        return self
