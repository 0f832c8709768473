"""What is to be exported, and into what: checked once, before anything is read.

Knows the columns of the captions table, not how they are read or written. Invariant: a request that was made can
be carried out, but for what ``where`` says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

from cfbus.errors import UsageError
from cfbus.logs import display
from cfbus.store.schema import DESCRIPTIONS


class Format(StrEnum):
    """What is written."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"
    TXT = "txt"
    WEBDATASET = "webdataset"


ITEM_COLUMNS = (
    "dataset", "shard", "item_index", "item_key", "filename", "url", "image_width", "image_height", "image_format",
    "file_size", "image_sha256", "metadata",
)  # fmt: skip
"""The same for all captions of an image."""
CAPTION_COLUMNS = tuple(name for name in DESCRIPTIONS["captions"] if name not in (*ITEM_COLUMNS, "slot"))
TELLING = ("key", "worker", "lease", "job_id")
"""Columns that tell who contributed although names do not."""
_BRIEF = ("shard", "item_key", "filename", "url", "slot", "caption", "model", "finish_reason", "flags", "revision")
_BRIEF_OF_SLOT = ("caption", "model", "finish_reason", "flags", "revision")
TABLES = (Format.PARQUET, Format.JSONL, Format.CSV)


@dataclass(frozen=True)
class Request:
    """An export. ``revision`` and ``as_of`` go back in time; ``position`` is set when it begins."""

    format: Format
    by_image: bool = False
    slots: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    where: str = ""
    columns: tuple[str, ...] = ()
    limit: int | None = None
    revision: int | None = None
    as_of: int | None = None
    """Microseconds UTC: only what was received until then."""
    with_empty: bool = False
    pseudonyms: bool = False
    by_shard: bool = False
    raw_csv: bool = False
    images: Path | None = None

    def __post_init__(self) -> None:
        known = list(DESCRIPTIONS["captions"])
        for name in self.columns:
            if name not in known:
                near = get_close_matches(name, known, 1, 0.5)
                hint = f"Did you mean {near[0]}?" if near else f"The columns are {', '.join(known)}."
                raise UsageError(f"There is no column {display(name)!r}.", hint)
            if self.pseudonyms and name in TELLING:
                raise UsageError(
                    f"The column {name} tells contributors apart whatever they are called.",
                    "Leave it out, or leave out --pseudonyms.",
                )
        if self.format is not Format.WEBDATASET and self.images is not None:
            raise UsageError("Only --format webdataset packs images.", "Leave out --images.")
        if self.by_image and self.format not in TABLES:
            raise UsageError(f"A row per image is for tables, not for {self.format}.", "Leave out --rows.")

    def columns_of_rows(self) -> tuple[str, ...]:
        """The columns of a row per caption."""
        if self.columns:
            return self.columns
        if self.format is Format.PARQUET:
            return tuple(name for name in DESCRIPTIONS["captions"] if not (self.pseudonyms and name in TELLING))
        return (*_BRIEF, "contributor_id")

    def columns_of_images(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The columns of a row per image, and those of each of its slots."""
        if not self.columns:
            return ITEM_COLUMNS, (*_BRIEF_OF_SLOT, "contributor_id")
        of_slot = tuple(name for name in self.columns if name in CAPTION_COLUMNS)
        return tuple(name for name in self.columns if name in ITEM_COLUMNS), of_slot or ("caption",)

    def as_json(self) -> Mapping[str, object]:
        """Names and values, to compare with those of an export that was cut off."""
        facts: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return facts


def nearest_unknown(wanted: Sequence[str], known: Sequence[str], what: str) -> None:
    """``UsageError`` when something that was asked for does not exist."""
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            said = [display(each, 80) for each in (near or known[:10])]
            hint = f"Did you mean {said[0]!r}?" if near else f"There are: {', '.join(said) or 'none'}."
            raise UsageError(f"The store has no {what} {display(name)!r}.", hint)
