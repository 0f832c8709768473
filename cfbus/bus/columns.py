"""Tables as column buffers: the payload of frames and the content of the journal.

A table is a map of columns. A text column is int32 lengths and all its UTF-8 in one buffer; a number
column is its raw little-endian values; a word column (few distinct values) is a list of words and one
byte of code per row. Nothing here knows msgpack, sockets or files: ``to_plain`` and ``from_plain`` turn a
table into plain maps of bytes and back, and ``cfbus.bus.wire`` packs those.

Invariant: a table that ``from_plain`` returned is whole: all columns of its kind are there, of equal
and stated length, every text is valid UTF-8, every code has its word. Sealing can rely on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cfbus.bus.fields import MAX_CAPTION_BYTES, MAX_SLOTS

Plain = Mapping[str, object]
Ints = npt.NDArray[np.int64]

NO_INT = -1
"""An unknown count or size."""
NO_SEED = -(1 << 63)
FLAGS = ("empty", "truncated", "refused", "repeated")
"""What may be remarked of a caption: bit i of its ``flags`` stands for word i."""
MAX_WORDS = 255
_CODES = bytes(range(MAX_WORDS))
_LENGTH, _UNSIGNED = np.dtype("<i4"), np.dtype("<u4")
MAX_WORD_BYTES = 512


class TableError(ValueError):
    """The bytes are not a whole table of the kind that they should be; the message says why."""


@dataclass(frozen=True, eq=False)
class TextColumn:
    """Texts (or byte strings) of ``len(lengths)`` rows, back to back in ``data``."""

    lengths: npt.NDArray[np.int32]
    data: bytes

    @classmethod
    def of(cls, values: Iterable[str | bytes]) -> TextColumn:
        """From rows; text is encoded as UTF-8."""
        cells = [value.encode() if isinstance(value, str) else value for value in values]
        return cls(np.fromiter(map(len, cells), np.int32, len(cells)), b"".join(cells))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> Ints:
        """Where each row starts; one more entry than rows, the last is the size in bytes."""
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        return offsets

    def raw(self, row: int) -> bytes:
        """The bytes of a row."""
        return self.data[self.offsets[row] : self.offsets[row + 1]]

    def raws(self) -> list[bytes]:
        """The bytes of all rows."""
        edges, data = self.offsets.tolist(), self.data
        return [data[start:end] for start, end in itertools.pairwise(edges)]

    def texts(self) -> list[str]:
        """All rows as text."""
        return [raw.decode() for raw in self.raws()]

    def slice(self, start: int, end: int) -> TextColumn:
        """Rows [start, end)."""
        return TextColumn(self.lengths[start:end], self.data[self.offsets[start] : self.offsets[end]])


@dataclass(frozen=True, eq=False)
class WordColumn:
    """One of a few words per row, by its code."""

    codes: npt.NDArray[np.uint8]
    words: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> WordColumn:
        """From rows with at most 255 distinct words."""
        words = {word: code for code, word in enumerate(dict.fromkeys(values))}
        return cls(np.fromiter(map(words.__getitem__, values), np.uint8, len(values)), tuple(words))

    def __len__(self) -> int:
        return len(self.codes)

    def texts(self) -> list[str]:
        """All rows as text."""
        return [self.words[code] for code in self.codes]


NumberColumn = npt.NDArray[np.generic]
Column = TextColumn | WordColumn | NumberColumn

TEXT, BINARY, WORD, HASH = "text", "binary", "word", "hash"
"""Kinds of column that are not a numpy dtype: UTF-8, any bytes, few words, 32 raw bytes a row."""


@dataclass(frozen=True)
class Layout:
    """The columns of a kind of table: per item, and per caption (``slots`` rows for each item)."""

    items: Mapping[str, str]
    captions: Mapping[str, str]
    constants: tuple[str, ...] = ()
    per_slot: tuple[str, ...] = ()
    max_text: int = MAX_CAPTION_BYTES


LAYOUTS: Mapping[str, Layout] = {
    "captions": Layout(
        items={
            "image_width": "<i4", "image_height": "<i4", "image_format": WORD, "file_size": "<i8",
            "image_sha256": HASH, "processing_ms": "<f4", "url": TEXT, "metadata": TEXT,
        },
        captions={
            "caption": TEXT, "finish_reason": WORD, "prompt_tokens": "<i4", "output_tokens": "<i4",
            "mean_logprob": "<f4", "seed": "<i8", "flags": "<u4",
        },
        constants=("spec", "model", "model_revision", "engine", "worker", "generation"),
        per_slot=("slot", "stage", "prompt_id"),
    ),
    "failures": Layout(
        items={"reason": WORD, "fault": WORD, "attempts": "<i4", "detail": TEXT, "who": TEXT},
        captions={},
    ),
    "listing": Layout(items={"key": TEXT, "locator": BINARY}, captions={}, max_text=1 << 16),
    "shards": Layout(items={"length": "<i8", "name": TEXT}, captions={}),
    "done": Layout(items={"pass_number": "<i4", "shard": "<i8", "start": "<i8", "end": "<i8"}, captions={}),
    "selected": Layout(items={"pass_number": "<i4", "shard": "<i8", "start": "<i8", "end": "<i8"}, captions={}),
    "jobs": Layout(
        items={
            "job_id": TEXT, "shard": "<i8", "start": "<i8", "end": "<i8", "pass_number": "<i4",
            "status": WORD, "assigned_to": TEXT, "timestamp": "<i8", "last_error": TEXT,
        },
        captions={},
    ),
    "contributors": Layout(items={"contributor_id": TEXT, "name": TEXT, "trust_level": "<i4"}, captions={}),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Table:
    """A whole table. ``rows`` counts items; caption columns have ``rows * len(slots)`` entries, item by item."""

    kind: str
    rows: int
    columns: Mapping[str, Column]
    constants: Mapping[str, str]
    slots: Mapping[str, tuple[str, ...]]

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The slots of each item, in the order of their rows."""
        return self.slots.get("slot", ())

    def text(self, name: str) -> TextColumn:
        """A text or binary column."""
        column = self.columns[name]
        assert isinstance(column, TextColumn)
        return column

    def words(self, name: str) -> WordColumn:
        """A word column."""
        column = self.columns[name]
        assert isinstance(column, WordColumn)
        return column

    def numbers(self, name: str) -> Ints:
        """A number column, as Python would count it."""
        column = self.columns[name]
        assert isinstance(column, np.ndarray)
        return column.astype(np.int64, copy=False)


def to_plain(table: Table) -> dict[str, object]:
    """The table as plain maps, lists, bytes and text, ready to be packed."""
    columns: dict[str, object] = {}
    for name, column in table.columns.items():
        if isinstance(column, TextColumn):
            columns[name] = (
                np.ascontiguousarray(column.lengths).astype("<i4", copy=False).tobytes(),
                column.data,
            )
        elif isinstance(column, WordColumn):
            columns[name] = (column.codes.tobytes(), column.words)
        else:
            columns[name] = column.tobytes()
    plain: dict[str, object] = {"rows": table.rows, "columns": columns}
    if table.constants:
        plain["constants"] = dict(table.constants)
    if table.slots:
        plain["slots"] = dict(table.slots)
    return plain


def build(
    kind: str,
    rows: int,
    columns: Mapping[str, Sequence[object] | Column],
    constants: Mapping[str, str] | None = None,
    slots: Mapping[str, tuple[str, ...]] | None = None,
) -> Table:
    """A table from rows in Python. Raises ``KeyError`` on a missing column: that is a bug, not input."""
    layout = LAYOUTS[kind]
    built = {name: _column_of(kind_of, columns[name]) for name, kind_of in {**layout.items, **layout.captions}.items()}
    return Table(kind, rows, built, constants or {}, slots or {})


def _column_of(kind: str, values: Sequence[object] | Column) -> Column:
    if isinstance(values, TextColumn | WordColumn):
        return values
    if kind in (TEXT, BINARY):
        return TextColumn.of(values)  # type: ignore[arg-type]
    if kind == WORD:
        return WordColumn.of(values)  # type: ignore[arg-type]
    if kind == HASH:
        return np.frombuffer(b"".join(values), np.uint8)  # type: ignore[arg-type]
    return np.asarray(values, dtype=kind)


def from_plain(kind: str, plain: object) -> Table:
    """Check plain maps that came from outside and make the table of them, or raise ``TableError``."""
    layout = LAYOUTS[kind]
    top = _mapping(plain, "table")
    rows = top.get("rows")
    if type(rows) is not int or not 0 <= rows < 1 << 24:
        raise TableError("rows is not a count")
    unknown = set(top) - {"rows", "columns", "constants", "slots"}
    if unknown:
        raise TableError("unknown part of a table")
    slots = _slots(layout, top.get("slots", {}))
    per_item = len(slots.get("slot", ())) if layout.captions else 1
    raw = _mapping(top.get("columns"), "columns")
    if set(raw) != set(layout.items) | set(layout.captions):
        raise TableError("columns are missing or unknown")
    columns = {name: _check(name, kind_, raw[name], rows, layout) for name, kind_ in layout.items.items()}
    for name, kind_ in layout.captions.items():
        columns[name] = _check(name, kind_, raw[name], rows * per_item, layout)
    return Table(kind, rows, columns, _constants(layout, top.get("constants", {})), slots)


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TableError(f"{what} is not a map")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_WORD_BYTES:
        raise TableError("a word is not a text of at most 512 characters")
    return value


def _constants(layout: Layout, value: object) -> dict[str, str]:
    constants = _mapping(value, "constants")
    if set(constants) != set(layout.constants):
        raise TableError("constants are missing or unknown")
    return {name: _word(word) for name, word in constants.items()}


def _slots(layout: Layout, value: object) -> dict[str, tuple[str, ...]]:
    slots = _mapping(value, "slots")
    if set(slots) != set(layout.per_slot):
        raise TableError("slots are missing or unknown")
    checked = {}
    for name, words in slots.items():
        if not isinstance(words, tuple | list) or not 1 <= len(words) <= MAX_SLOTS:
            raise TableError("slots is not a short list")
        checked[name] = tuple(_word(word) for word in words)
    if len({len(words) for words in checked.values()}) > 1:
        raise TableError("slots have different lengths")
    return checked


def _check(name: str, kind: str, value: object, rows: int, layout: Layout) -> Column:
    if kind in (TEXT, BINARY):
        return _check_text(name, value, rows, layout.max_text, utf8=kind == TEXT)
    if kind == WORD:
        return _check_words(name, value, rows)
    dtype, width = (np.dtype(np.uint8), 32) if kind == HASH else (np.dtype(kind), 1)
    if not isinstance(value, bytes) or len(value) != rows * width * dtype.itemsize:
        raise TableError(f"{name} has a wrong length")
    return np.frombuffer(value, dtype)


def _pair(name: str, value: object) -> tuple[object, object]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TableError(f"{name} is not a pair")
    return value[0], value[1]


def _check_text(name: str, value: object, rows: int, limit: int, *, utf8: bool) -> TextColumn:
    lengths_raw, data = _pair(name, value)
    if not isinstance(lengths_raw, bytes) or not isinstance(data, bytes) or len(lengths_raw) != 4 * rows:
        raise TableError(f"{name} has a wrong length")
    lengths = np.frombuffer(lengths_raw, _LENGTH)
    if not data and lengths_raw.count(0) == len(lengths_raw):
        return TextColumn(lengths, data)  # no text at all, which is common and needs no sums
    if rows and int(np.maximum.reduce(lengths.view(_UNSIGNED))) > limit:  # a negative one is very large then
        raise TableError(f"{name} has a text that is too long")
    if int(np.add.reduce(lengths, dtype=np.int64)) != len(data):
        raise TableError(f"{name} has lengths that do not add up")
    column = TextColumn(lengths, data)
    if utf8 and not data.isascii():
        _check_utf8(name, column)
    return column


def _check_utf8(name: str, column: TextColumn) -> None:
    try:
        column.data.decode()
    except UnicodeDecodeError:
        raise TableError(f"{name} is not valid UTF-8") from None
    # Valid as a whole, so each row is valid exactly when no row starts inside a character.
    starts = column.offsets[:-1]
    inside = np.frombuffer(column.data, np.uint8)[starts[starts < len(column.data)]]
    if bool(np.any((inside & 0xC0) == 0x80)):
        raise TableError(f"{name} cuts a character in two")


def _check_words(name: str, value: object, rows: int) -> WordColumn:
    codes_raw, words = _pair(name, value)
    if not isinstance(codes_raw, bytes) or len(codes_raw) != rows:
        raise TableError(f"{name} has a wrong length")
    if not isinstance(words, tuple | list) or len(words) > MAX_WORDS:
        raise TableError(f"{name} has no short list of words")
    if codes_raw.translate(None, _CODES[: len(words)]):  # all that have a word are taken out
        raise TableError(f"{name} has a code without a word")
    return WordColumn(np.frombuffer(codes_raw, np.uint8), tuple(_word(word) for word in words))
