"""The section `dataset`: what is captioned, and where it is read from.

It must not open or look at any of it; `cfbus.sources` does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cfbus.config_downloads import Downloading
from cfbus.config_types import Flag, Line, Place, Whole, is_url, shown_url
from cfbus.config_words import Section
from cfbus.logs import display

MAX_PATHS = 5000
_TAR = re.compile(r"\.(tar|tgz)\b", re.IGNORECASE)
_PATTERN = frozenset("*?[{")


def _several(given: object) -> object:
    if isinstance(given, list):
        return tuple(given)
    return (given,) if isinstance(given, str | Path) else given


def _not_too_many(paths: tuple[Path | str, ...]) -> tuple[Path | str, ...]:
    if len(paths) > MAX_PATHS:
        raise ValueError(
            f"a list of at most {MAX_PATHS} paths; tars can be named by a pattern in quotes: 'shards/*.tar'"
        )
    return paths


def _is_tar(path: Path | str) -> bool:
    return _TAR.search(os.path.basename(path)) is not None  # noqa: PTH119 - may be an address


Kind = Literal["folder", "webdataset", "huggingface", "urls", "scripted"]
_LISTS = tuple(suffix + packed for suffix in (".csv", ".tsv", ".jsonl", ".ndjson", ".txt") for packed in ("", ".gz"))
ONLY_FOR: dict[str, tuple[Kind, ...]] = {
    "image_column": ("webdataset", "huggingface"),
    "url_column": ("huggingface", "urls"),
    "key_column": ("huggingface", "urls"),
    "hub_config": ("huggingface",),
    "split": ("huggingface",),
    "revision": ("huggingface",),
    "items": ("scripted",),
}
"""Keys that only these sources read."""


def _source(data: dict[str, Any]) -> Kind:
    """Known by names; whatever else is named is taken for a folder of pictures."""
    paths: tuple[Path | str, ...] = data.get("paths", ())
    if any(map(_is_tar, paths)):
        return "webdataset"
    if _any_ends(paths, (".parquet",)) or any(str(path).startswith("hf://") for path in paths):
        return "huggingface"
    return "urls" if _any_ends(paths, _LISTS) else "folder"


def _any_ends(paths: Iterable[Path | str], suffixes: tuple[str, ...]) -> bool:
    return any(str(path).lower().endswith(suffixes) for path in paths)


def _dataset_name(data: dict[str, Any]) -> str:
    """The base name of the first folder; what cannot be shown in one line is shown as its escapes."""
    paths: tuple[Path | str, ...] = data.get("paths", ())
    if not paths:
        return display(data.get("source", ""), 100) or "root"
    # Of an address, what stands behind the scheme is good enough for a name; user, password and query are not.
    first = Path(os.path.normpath(shown_url(str(paths[0])).partition("://")[2] if is_url(paths[0]) else paths[0]))
    if data.get("source") == "webdataset":
        while first != first.parent and (_is_tar(first) or _PATTERN & set(str(first))):
            first = first.parent
    return display(first.name, 100) or "root"


class Dataset(Section):
    paths: Annotated[tuple[Place, ...], BeforeValidator(_several), AfterValidator(_not_too_many)] = Field(
        default=(),
        description="What to caption: folders of pictures, with all folders in them; or tars, as patterns like"
        " shards/*.tar and shard-{0000..0099}.tar, or folders that hold tars, on disks or behind https:// and s3://; a"
        " dataset of the Hugging Face hub (hf://NAME/SET) or parquet files with images; lists of addresses (.csv,"
        " .jsonl, .parquet).",
    )
    source: Kind = Field(
        default_factory=_source,
        description="What 'paths' are: 'folder' for pictures in folders, 'webdataset' for tars of samples,"
        " 'huggingface' for datasets of the hub and parquet files with images, 'urls' for lists of addresses; by"
        " default known by their names. 'scripted' is for tests and benchmarks.",
    )
    image_column: Line = Field(
        default="",
        max_length=200,
        description="Which member of a tar's sample is the image, by its suffix: 'jpg', or 'input.png;input.jpg'; by"
        " default the first that is called like a picture. Or which column of a table holds the images.",
    )
    url_column: Line = Field(
        default="",
        max_length=200,
        description="Which column of a table holds the images' addresses; by default the one called url, image_url or"
        " the like.",
    )
    key_column: Line = Field(
        default="", max_length=200, description="Which column of a table is an item's key; by default its row counts."
    )
    hub_config: Line = Field(
        default="", max_length=200, description="Which configuration (subset) of a dataset of the hub."
    )
    split: Line = Field(
        default="",
        max_length=200,
        description="Which split, such as train; by default all, each in its own shards.",
    )
    revision: Line = Field(
        default="",
        max_length=200,
        description="Branch, tag or commit of a dataset of the hub; what it names at the start is kept to.",
    )
    downloads: Downloading = Field(
        default_factory=Downloading, description="How the images behind a table's or list's addresses are fetched."
    )
    delivery: Literal["auto", "direct", "feeder"] = Field(
        default="auto",
        description="How workers get the images: 'direct' from the source, through a 'feeder', or 'auto': a feeder for"
        " those that cannot reach the source.",
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
        addresses = [str(path) for path in self.paths if is_url(path)]
        if self.source == "folder" and addresses:
            raise ValueError(
                f"dataset.paths: {shown_url(addresses[0])} is no folder; name its kind, dataset.source:"
                " webdataset, huggingface or urls"
            )
        for key, sources in ONLY_FOR.items():
            if getattr(self, key) and self.source not in sources:
                raise ValueError(f"dataset.{key} is only for dataset.source: {' or '.join(sources)}")
        return self
