"""The rows of lists in files: parquet, CSV, TSV, JSON lines, plain text; packed by gzip too, but for parquet.

What it is for: `open_list`, the columns' names and an iterator over the rows, in the memory of one batch.
What it must not know: addresses, keys, shards.

Invariants:
- A row is a mapping of small values as JSON has them (text, number, truth), or a sentence that says why it is none. The
  same file gives the same rows, and rows appended to it change none before them.
- A line takes at most `MAX_LINE_BYTES` of memory, whatever the file holds. Where a file cannot be understood any
  further, `BadListError` ends it: what came before counts.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

TEXT_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
LIST_SUFFIXES: Final = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet")
MAX_LINE_BYTES: Final = 1 << 20
BATCH_ROWS: Final = 4096
LOOKED_AT: Final = 100

Row: TypeAlias = Mapping[str, object] | str


class BadListError(Exception):
    """A list cannot be read, or not to its end; the message is the end of a sentence."""


@dataclass(frozen=True, slots=True)
class OpenList:
    """What its columns are called, and its rows. Both may raise BadListError."""

    names: list[str]
    rows: Iterator[Row]


@contextmanager
def open_list(path: Path) -> Iterator[OpenList]:
    """The list in this file; its name says how it is written. Raises BadListError."""
    kind, packed = _kind(path)
    with _in_words(), path.open("rb") as plain:
        found = _READERS[kind](gzip.GzipFile(fileobj=plain) if packed else plain)
        yield OpenList(found.names, _told(found.rows))


def _kind(path: Path) -> tuple[str, bool]:
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    if not name.endswith(LIST_SUFFIXES):
        raise BadListError(f"is no list: its name ends with none of {', '.join(TEXT_SUFFIXES)}, .parquet")
    return kind, name.endswith(".gz")


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (csv.Error, EOFError, zlib.error, pa.ArrowException) as error:
        lines = str(error).splitlines()
        raise BadListError(f"cannot be read any further: {lines[0][:300] if lines else 'it ends too early'}") from None
    except OSError as error:
        raise BadListError(f"cannot be read: {error.strerror or error}") from None


def _told(rows: Iterator[Row]) -> Iterator[Row]:
    with _in_words():
        yield from rows


# -- text


class _Readable(Protocol):
    def readline(self, size: int = -1, /) -> bytes: ...


def _lines(file: _Readable) -> Iterator[bytes]:
    """Each line with its end; of one that is too long, its beginning, which is longer than a line may be."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)


def _texts(lines: Iterator[bytes]) -> Iterator[str]:
    """Lines of a table, in which one that is too long leaves nothing to be understood behind it."""
    for line in lines:
        if len(line) > MAX_LINE_BYTES:
            raise BadListError(f"has a line of more than {MAX_LINE_BYTES} bytes; nothing behind it was read")
        yield line.decode("utf-8", "backslashreplace")


def _csv(file: _Readable) -> OpenList:
    return _table(_lines(file), ",;\t")


def _tsv(file: _Readable) -> OpenList:
    return _table(_lines(file), "\t")


def _table(lines: Iterator[bytes], delimiters: str) -> OpenList:
    texts = _texts(lines)
    header = next(texts, "").removeprefix("\ufeff")
    cells = csv.reader(chain([header], texts), delimiter=max(delimiters, key=header.count))
    names = next(cells, [])
    return OpenList(names, (dict(zip(names, row, strict=False)) for row in cells if row))


def _addresses(file: _Readable) -> OpenList:
    """Plain text: an address in each line."""
    return OpenList(["url"], ({"url": line.strip()} for line in _texts(_lines(file)) if line.strip()))


def _json_lines(file: _Readable) -> OpenList:
    rows = (_object(line) for line in _lines(file) if line.strip())
    first = list(islice(rows, LOOKED_AT))
    names = dict.fromkeys(name for row in first if not isinstance(row, str) for name in row)
    return OpenList(list(names), chain(first, rows))


def _object(line: bytes) -> Row:
    if len(line) > MAX_LINE_BYTES:
        return f"Its line has more than {MAX_LINE_BYTES} bytes."
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf"), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return f"Its line is no JSON: {str(error)[:100]}."
    if not isinstance(value, dict):
        return "Its line is JSON, but no object."
    return {name: cell for name, cell in value.items() if isinstance(cell, str | int | float | bool)}


def _no_number(_word: str) -> None:
    """NaN and Infinity, which JSON does not have, are no value."""


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


# -- parquet


def _parquet(file: IO[bytes]) -> OpenList:
    table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 16)
    names = [field.name for field in table.schema_arrow if _is_small(field.type)]
    return OpenList(names, _batched(table, names))


def _is_small(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
    )
    return any(test(kind) for test in tests)


def _batched(table: Any, names: list[str]) -> Iterator[Row]:  # noqa: ANN401 - pyarrow has no types
    for batch in table.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
        columns = [[*map(_cell, column.to_pylist())] for column in batch.columns]
        for values in zip(*columns, strict=True):
            yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _cell(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_READERS: Final[Mapping[str, Callable[[Any], OpenList]]] = {
    ".csv": _csv, ".tsv": _tsv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".txt": _addresses,
    ".parquet": _parquet,
}  # fmt: skip
