"""Parquet files with images: which column holds them, what a row's other columns are, and row groups read once.

What it is for: `ParquetRows`, one open file (local or on the hub) that hands out rows.
What it must not know: names of shards, listings, where the file lies, the network.

Invariants: opening reads the footer and nothing else; a row group is decoded once for all threads that want rows of it,
and at most `GROUPS_KEPT` of a file are kept. What comes out of a file is data: nothing of it is ever executed.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cfbus.logs import display
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.columns import MAX_COLUMN_BYTES

IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
URL_NAMES: Final = ("url", "image_url", "img_url", "image_link")
GROUPS_KEPT: Final = 2
SMALL_GROUP_ROWS: Final = 100_000
_FEATURES: Final = b"huggingface"


class BadParquetError(Exception):
    """The file cannot be listed; the message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which column the images are in: as bytes, or as addresses."""

    name: str
    is_url: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as its row has it: its bytes, or where they are."""

    data: bytes = b""
    url: str = ""
    path: str = ""


class ParquetRows:
    """An open file. Raises BadParquetError, OSError. ``image`` and ``url`` name columns, or are empty."""

    def __init__(self, file: str | IO[bytes], image: str = "", url: str = "") -> None:
        try:
            # Column chunks that lie together are fetched in one request where the file is far away.
            self._file = pq.ParquetFile(file, pre_buffer=not isinstance(file, str))
        except (pa.ArrowException, ValueError) as error:
            raise BadParquetError(f"it is no parquet file that can be read: {_first_line(error)}") from None
        self._schema = self._file.schema_arrow
        self._features = _features(self._schema)
        self.chosen = self._choose(image, url)
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    # ------------------------------------------------------------------ what there is

    @property
    def group_lengths(self) -> list[int]:
        """Rows of each row group."""
        metadata = self._file.metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    @property
    def fingerprint(self) -> tuple[int, int]:
        """What tells another file from this one, as far as the footer shows: rows, and size of the footer."""
        return self._file.metadata.num_rows, self._file.metadata.serialized_size

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(self._schema.names)

    def keys(self, group: int, column: str) -> list[str]:
        """A column of a row group as texts, for keys."""
        if column not in self._schema.names:
            raise BadParquetError(f"it has no column {display(column, 60)!r}{self._meant(column)}")
        try:
            table = self._file.read_row_group(group, columns=[column])
        except (pa.ArrowException, OSError) as error:
            raise BadParquetError(f"its column {display(column, 60)} cannot be read: {_first_line(error)}") from None
        return ["" if value is None else str(value) for value in table.column(0).to_pylist()]

    def _choose(self, image: str, url: str) -> Chosen:
        for wanted, is_url in ((image, False), (url, True)):
            if wanted and wanted not in self._schema.names:
                raise BadParquetError(f"it has no column {display(wanted, 60)!r}{self._meant(wanted)}")
            if wanted:
                return Chosen(wanted, is_url or _is_text(self._schema.field(wanted).type))
        images = [name for name, feature in self._features.items() if feature.get("_type") == "Image"]
        if len(images) > 1:
            raise BadParquetError(f"its columns {_names(images)} all hold images; say which: dataset.image_column")
        lower = {name.lower(): name for name in self._schema.names}
        named = [lower[name] for name in IMAGE_NAMES if name in lower]
        held = [name for name in (*images, *named) if _may_hold(self._schema.field(name).type)]
        if held:
            return Chosen(held[0], False)
        urls = [lower[name] for name in (*URL_NAMES, *IMAGE_NAMES) if name in lower]
        urls = [name for name in urls if _is_text(self._schema.field(name).type)]
        if urls:
            return Chosen(urls[0], True)
        raise BadParquetError(
            f"none of its columns ({_names(self._schema.names)}) is known to hold images; say which:"
            " dataset.image_column"
        )

    def _meant(self, name: str) -> str:
        near = get_close_matches(name, self._schema.names, 1, 0.6)
        return f"; did you mean {display(near[0], 60)!r}?" if near else f"; it has {_names(self._schema.names)}"

    # ------------------------------------------------------------------ rows

    def row(self, group: int, row: int) -> tuple[Picture, dict[str, object]]:
        """A row's image and its other columns. Raises ReadError, OSError."""
        table = self._group(group)
        if row >= table.num_rows:
            raise ReadError(ReadReason.CHANGED, "The file is not the one that was listed.", "worker")
        cells = {name: table.column(name)[row].as_py() for name in table.column_names}
        picture = _picture(cells.pop(self.chosen.name), self.chosen)
        columns = {name: self._plain(name, value) for name, value in cells.items()}
        columns = {name: value for name, value in columns.items() if value is not _LEFT_OUT}
        if self.chosen.is_url:
            columns.setdefault("url", picture.url)
        size = len(json.dumps(columns, default=str))
        if size > MAX_COLUMN_BYTES:
            detail = f"Its columns have {size} bytes; the limit is {MAX_COLUMN_BYTES}."
            raise ReadError(ReadReason.BAD_COLUMN, detail, "item")
        return picture, columns

    def _group(self, number: int) -> pa.Table:
        with self._lock:  # who comes second waits for the first, and decodes nothing
            table = self._groups.get(number)
            if table is None:
                if number >= self._file.metadata.num_row_groups:
                    raise ReadError(ReadReason.CHANGED, "The file is not the one that was listed.", "worker")
                try:
                    table = self._file.read_row_group(number, use_threads=False)
                except pa.ArrowException as error:
                    raise ReadError(ReadReason.UNREADABLE, f"Its row group: {_first_line(error)}", "item") from None
                self._groups[number] = table
            self._groups.move_to_end(number)
            while len(self._groups) > GROUPS_KEPT:
                self._groups.popitem(last=False)
        return table

    def _plain(self, name: str, value: object) -> object:
        """As JSON has it; a class label as its name, bytes left out."""
        feature = self._features.get(name, {})
        labels = feature.get("names") if feature.get("_type") == "ClassLabel" else None
        if isinstance(labels, list) and isinstance(value, int) and 0 <= value < len(labels):
            return str(labels[value])
        return _plain(value)


_LEFT_OUT: Final = object()


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if value == value and abs(value) != float("inf") else None
        case bytes() | bytearray() | memoryview():
            return _LEFT_OUT
        case Mapping():
            inner = {str(key): _plain(each) for key, each in value.items()}
            return {key: each for key, each in inner.items() if each is not _LEFT_OUT}
        case list() | tuple():
            return [each for each in map(_plain, value) if each is not _LEFT_OUT]
        case _:
            return str(value)


def _picture(value: object, chosen: Chosen) -> Picture:
    if isinstance(value, str):
        return Picture(url=value) if chosen.is_url else Picture(path=value)
    if isinstance(value, bytes):
        return Picture(data=value)
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes) and data:
            return Picture(data=data)
        if isinstance(path, str) and path:
            return Picture(url=path) if "://" in path else Picture(path=path)
    raise ReadError(ReadReason.UNREADABLE, "Its row has no image.", "item")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _may_hold(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} & {kind.field(at).name for at in range(kind.num_fields)} != set()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: pa.Schema) -> dict[str, dict[str, object]]:
    """What `datasets` wrote about its columns."""
    try:
        written = json.loads((schema.metadata or {}).get(_FEATURES, b"{}"))
        features = written["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    known = {name: feature for name, feature in features.items() if name in schema.names}
    return {name: feature for name, feature in known.items() if isinstance(feature, dict)}


def _names(names: Sequence[str]) -> str:
    return ", ".join(display(name, 40) for name in list(names)[:20])


def _first_line(error: BaseException) -> str:
    return display(str(error).split("\n")[0], 200)
