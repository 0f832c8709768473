"""An item's columns: what stands beside its image, as JSON has it.

What it is for: reading the files beside an image as columns, and telling which of them are kept with the rows.
What it must not know: where the bytes come from, what prompts do with columns.

Invariants: a column costs at most `MAX_COLUMN_BYTES` to read and `MAX_COLUMNS` names; what is kept of an item is at
most `MAX_KEPT_BYTES` of JSON. Nothing is ever constructed but what JSON has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

MAX_COLUMN_BYTES: Final = 1 << 20
MAX_COLUMNS: Final = 1000
MAX_KEPT_BYTES: Final = 16 << 10
MAX_URL_BYTES: Final = 2048


class ColumnError(Exception):
    """A file beside an image is no column; the message is a sentence."""


def columns_of(suffix: str, data: bytes) -> dict[str, object]:
    """The columns that a file with this suffix (``json``, ``txt``, ``cls``) holds: a JSON object's keys, each a
    column; else one column that is called like the suffix. Raises ColumnError."""
    text = _text(suffix, data)
    if suffix.rpartition(".")[2] != "json":
        return {suffix: text.strip()}
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ColumnError(f"Its .{suffix} is no JSON: {str(error)[:100]}.") from None
    if not isinstance(value, dict):
        return {suffix: value}
    if len(value) > MAX_COLUMNS:
        raise ColumnError(f"Its .{suffix} has more than {MAX_COLUMNS} keys.")
    return value


def _text(suffix: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ColumnError(f"Its .{suffix} is not UTF-8.") from None


def _no_number(word: str) -> None:
    """NaN and Infinity, which JSON does not have, are no value."""


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def kept(columns: Mapping[str, object], names: Sequence[str]) -> str:
    """The columns of these names (``*``: all) as a JSON object; empty when there are none of them.

    What does not fit is left out whole, the largest first, and named under ``(left out)``.
    """
    wanted = columns if "*" in names else {name: columns[name] for name in names if name in columns}
    cells = {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in wanted.items()}
    if not cells:
        return ""
    sizes = {name: len(cell.encode("utf-8", "replace")) + len(name) * 4 + 8 for name, cell in cells.items()}
    out: list[str] = []
    while sum(sizes.values()) > MAX_KEPT_BYTES - 1024:
        largest = max(sizes, key=sizes.__getitem__)
        del sizes[largest]
        out.append(largest[:64])
    found = {name: wanted[name] for name in sizes} | ({"(left out)": out[:8]} if out else {})
    return json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode()


def url_of(columns: Mapping[str, object]) -> str:
    """The column ``url``, if it is a text of sensible length."""
    url = columns.get("url")
    return url if isinstance(url, str) and url.isprintable() and len(url.encode()) <= MAX_URL_BYTES else ""
