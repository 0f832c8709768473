"""Which column of a table holds the images, and what the others are as JSON has them.

What it is for: `choose` by names, types and what `datasets` wrote into the schema; `image_in` and `cells_of` for rows.
What it must not know: files, row groups, where a table comes from.

Invariants:
- The choice depends on nothing but the table's schema and the configuration: whoever reads a table chooses alike.
- Columns of bytes are no columns here. A cell costs at most `MAX_COLUMN_BYTES`; a table has at most `MAX_COLUMNS`.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pat

from cfbus.logs import display
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.columns import MAX_COLUMN_BYTES, MAX_COLUMNS
from cfbus.sources.table_files import BadTableError
from cfbus.sources.url_lists import URL_NAMES

IMAGE_NAMES: Final = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes")
_MAX_DEPTH: Final = 16
_IMAGES: Final = "Say with dataset.image_column which one holds the images."


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says of columns; empty where it says nothing."""

    image: str = ""
    url: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """``image`` or ``url`` is the column with the images or their addresses; ``others`` are an item's columns, and
    ``names`` the names that stand for the numbers of some of them."""

    image: str
    url: str
    others: tuple[str, ...]
    names: Mapping[str, Sequence[str]]

    @property
    def where(self) -> str:
        """The column that matters."""
        return self.image or self.url

    @property
    def all(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys([self.where, *self.others]))


def choose(schema: Any, wanted: Wanted) -> Choice:  # noqa: ANN401 - pyarrow has no types
    """The choice for a table of this schema. Raises BadTableError where there is none, or more than one."""
    names = list(schema.names)
    doubled = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if doubled is not None:
        raise BadTableError(f"has two columns that are called {display(doubled, 60)}")
    features = _features(schema)
    image, url = _where(schema, features, wanted)
    if wanted.key and wanted.key not in names:
        raise BadTableError(_lacks(wanted.key, names))
    others = [field.name for field in schema if field.name != image and _is_column(field.type)]
    return Choice(image, url, tuple(others[:MAX_COLUMNS]), _names(features, others))


def _where(schema: Any, features: Mapping[str, Any], wanted: Wanted) -> tuple[str, str]:  # noqa: ANN401
    for name in filter(None, (wanted.image, wanted.url)):
        if name not in schema.names:
            raise BadTableError(_lacks(name, schema.names))
    if wanted.image:
        kind = schema.field(wanted.image).type
        if is_image(kind):
            return wanted.image, ""
        if is_text(kind):
            return "", wanted.image
        raise BadTableError(f"has no images in its column {display(wanted.image, 60)}, but {kind}"[:300])
    if wanted.url:
        if not is_text(schema.field(wanted.url).type):
            raise BadTableError(f"has no addresses in its column {display(wanted.url, 60)}")
        return "", wanted.url
    return _found(schema, features)


def _found(schema: Any, features: Mapping[str, Any]) -> tuple[str, str]:  # noqa: ANN401
    said = [name for name, feature in features.items() if feature.get("_type") == "Image" and name in schema.names]
    called = [field.name for field in schema if is_image(field.type) and field.name.lower() in IMAGE_NAMES]
    shaped = [field.name for field in schema if is_image(field.type) and pat.is_struct(field.type)]
    for names in (said, called, shaped):
        if len(names) > 1:
            some = ", ".join(display(name, 60) for name in names[:5])
            raise BadTableError(f"has several columns with images ({some}). {_IMAGES[:-1]}")
        if names:
            return names[0], ""
    small = {field.name.lower(): field.name for field in schema if is_text(field.type)}
    url = next((small[name] for name in URL_NAMES if name in small), None)
    if url is None:
        raise BadTableError(f"has no column with images (its columns: {_listed(schema.names)}). {_IMAGES[:-1]}")
    return "", url


def _lacks(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1, 0.6)
    meant = f"; did you mean {display(near[0], 60)}?" if near else ""
    return f"has no column {display(name, 60)} (its columns: {_listed(names)}{meant})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(display(name, 40) for name in names[:20]) or "none"


def _features(schema: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """What `datasets` wrote about the columns; nothing where it makes no sense."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said["info"]["features"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _names(features: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for column in columns:
        feature = features.get(column, {})
        inner = feature.get("feature", feature)  # a list of labels
        names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[column] = names
    return found


# -- types


def is_text(kind: Any) -> bool:  # noqa: ANN401
    """Whether cells of this type are text."""
    if pat.is_dictionary(kind):
        kind = kind.value_type
    return bool(pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind))


def is_image(kind: Any) -> bool:  # noqa: ANN401
    """Whether cells of this type may be images: bytes, or bytes and a path as `datasets` has them."""
    if pat.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:  # noqa: ANN401
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind))


def _is_column(kind: Any, depth: int = 0) -> bool:  # noqa: ANN401
    """Whether JSON can have cells of this type."""
    if depth > _MAX_DEPTH or _is_bytes(kind) or pat.is_fixed_size_binary(kind):
        return False
    if pat.is_dictionary(kind):
        return _is_column(kind.value_type, depth + 1)
    return all(_is_column(kind.field(at).type, depth + 1) for at in range(kind.num_fields))


# -- cells


def image_in(cell: Any, most_bytes: int) -> tuple[bytes | None, str]:  # noqa: ANN401
    """An image's bytes, or the path that stands in their place; neither where there is nothing. Raises ReadError."""
    path = ""
    if pat.is_struct(cell.type) and cell.is_valid:
        at = cell.type.get_field_index("path")
        path = _text(cell[at], "path") if at >= 0 and is_text(cell.type.field(at).type) else ""
        cell = cell["bytes"]
    if not cell.is_valid:
        return None, path
    buffer = cell.as_buffer()
    if buffer.size > most_bytes:
        detail = f"It has {buffer.size} bytes; the limit is {most_bytes}."
        raise ReadError(ReadReason.TOO_LARGE, detail, "item")
    return (buffer.to_pybytes() or None), path


def text_in(cell: Any) -> str:  # noqa: ANN401
    """A text; empty where there is none. Raises ReadError."""
    return _text(cell, "address")


def _text(cell: Any, what: str) -> str:  # noqa: ANN401
    try:
        said = cell.as_py()
    except UnicodeDecodeError:
        raise ReadError(ReadReason.BAD_COLUMN, f"Its {what} is not UTF-8.", "item") from None
    return said.strip() if isinstance(said, str) else ""


def key_in(cell: Any) -> str:  # noqa: ANN401
    """A key; empty where the cell has none."""
    try:
        said = cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return ""
    return str(said) if isinstance(said, str | int) and not isinstance(said, bool) else ""


def cells_of(batch: Any, row: int, choice: Choice) -> dict[str, object]:  # noqa: ANN401
    """The columns of one row, without those that are null. Raises ReadError."""
    found: dict[str, object] = {}
    for name in choice.others:
        column = batch.column(name)
        value = _cell(name, column, row)
        if name in choice.names:
            value = _named(value, choice.names[name])
        if value is not None:
            found[name] = value
    return found


def _cell(name: str, column: Any, row: int) -> object:  # noqa: ANN401
    size = 0 if pat.is_primitive(column.type) else column.slice(row, 1).nbytes
    if size > MAX_COLUMN_BYTES and not pat.is_dictionary(column.type):
        detail = f"Its column {display(name, 60)} has {size} bytes; the limit is {MAX_COLUMN_BYTES}."
        raise ReadError(ReadReason.BAD_COLUMN, detail, "item")
    try:
        return as_json(_micro(column[row]).as_py())
    except (ValueError, OverflowError, RecursionError, pa.ArrowException) as error:
        detail = f"Its column {display(name, 60)} cannot be read: {display(str(error), 100)}."
        raise ReadError(ReadReason.BAD_COLUMN, detail, "item") from None


def _micro(cell: Any) -> Any:  # noqa: ANN401
    """A time to the microsecond, which is what Python has; pyarrow needs pandas for more."""
    if pat.is_timestamp(cell.type):
        return cell.cast(pa.timestamp("us", cell.type.tz), safe=False) if cell.type.unit == "ns" else cell
    if pat.is_duration(cell.type):
        return cell.cast(pa.duration("us"), safe=False) if cell.type.unit == "ns" else cell
    return cell.cast(pa.time64("us"), safe=False) if pat.is_time64(cell.type) and cell.type.unit == "ns" else cell


def _named(value: object, names: Sequence[str]) -> object:
    """Numbers of labels as their names."""
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def as_json(value: object) -> object:
    """A value as JSON has it: dates and times as ISO 8601, decimals as text, what is no number as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case decimal.Decimal():
            return str(value)
        case Mapping():
            return {str(name): as_json(each) for name, each in value.items()}
        case list() | tuple():
            return [as_json(each) for each in value]
    return None
