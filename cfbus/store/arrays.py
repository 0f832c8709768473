"""Columns of many frames as Arrow arrays, without a loop over rows.

Knows the kinds of columns (`cfbus.bus.columns`) and Arrow's buffers; nothing of tables, files or frames.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cfbus.bus.columns import FLAGS, TextColumn
from cfbus.store.schema import HASH_BYTES


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("this program does without pandas", name=fullname)


def without_pandas() -> None:
    """For a program that makes arrays and no data frames; before its first array.

    Where pandas is installed Arrow imports it with the first array, to know it by sight: more time of the processor
    than sealing takes for tens of thousands of captions.
    """
    sys.meta_path.insert(0, _NoPandas())


def number(word: str) -> int | None:
    """A count as a word; None for any other."""
    return int(word) if word.isascii() and word.isdecimal() and len(word) <= 18 else None


def codes(values: Sequence[str]) -> tuple[npt.NDArray[np.int32], list[str]]:
    """A code for each value, and the distinct values by code, in order of first use."""
    words = {word: code for code, word in enumerate(dict.fromkeys(values))}
    return np.fromiter(map(words.__getitem__, values), np.int32, len(values)), list(words)


def dictionary(codes: npt.NDArray[np.int32], words: Sequence[str]) -> pa.Array:
    """Words by their codes."""
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(words, pa.string()))


def known(values: npt.NDArray[Any], unknown: int) -> pa.Array:
    """Numbers, null where one is ``unknown``."""
    return pa.array(values, mask=values == unknown)


def finite(values: npt.NDArray[Any]) -> pa.Array:
    """Numbers, null where one is none."""
    return pa.array(values, mask=np.isnan(values))


def texts(columns: Sequence[TextColumn]) -> pa.Array:
    """Texts of many columns as one, from their buffers: the bytes are copied once and never decoded."""
    lengths = np.concatenate([column.lengths for column in columns])
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    data = b"".join([column.data for column in columns])
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))


def known_texts(columns: Sequence[TextColumn]) -> pa.Array:
    """Texts of which an empty one says that there is none."""
    rows = sum(map(len, columns))
    if not any(len(column.data) for column in columns):
        return pa.nulls(rows, pa.string())
    found = texts(columns)
    return pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)


def hashes(rows: npt.NDArray[np.uint8]) -> pa.Array:
    """SHA-256 sums; one of zeros only says that there is none."""
    known = pa.py_buffer(np.packbits(rows.any(axis=1), bitorder="little"))
    data = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(HASH_BYTES), len(rows), [known, data])


def flags(bits: npt.NDArray[Any]) -> pa.Array:
    """Bits as lists of the words that they stand for."""
    each = (bits[:, None] >> np.arange(len(FLAGS), dtype=np.uint32)) & 1
    offsets = np.zeros(len(bits) + 1, np.int32)
    np.cumsum(each.sum(axis=1), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(FLAGS).take(pa.array(each.nonzero()[1])))
