"""Locators of rows: what goes in comes out, and what nobody packed is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.sources.base import ReadReason
from cfbus.sources.list_locators import (
    MAX_COLUMNS_BYTES,
    MAX_LOCATOR_BYTES,
    RowLocator,
    chained,
    checksum_in,
    with_checksum,
)

CELLS = st.text(max_size=50) | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=100)


@given(url=TEXTS, columns=st.dictionaries(TEXTS, CELLS, max_size=5), checksum=st.integers(0, 2**32 - 1))
def test_there_and_back(url: str, columns: dict[str, object], checksum: int) -> None:
    packed = RowLocator(url, columns).pack()
    assert checksum_in(packed) is None
    assert checksum_in(with_checksum(packed, checksum)) == checksum
    for one in (packed, with_checksum(packed, checksum)):
        back = RowLocator.unpack(one)
        assert back.url == url
        assert back.columns == json.loads(json.dumps(columns).encode("utf-8", "replace"))


@given(reason=st.sampled_from(ReadReason), detail=TEXTS)
def test_broken_ones_too(reason: ReadReason, detail: str) -> None:
    packed = with_checksum(RowLocator(reason=reason, detail=detail).pack(), 7)
    assert RowLocator.unpack(packed) == RowLocator(reason=reason, detail=detail)


@given(st.binary(max_size=200) | st.builds(lambda tail: b"w\0http://a/\0" + tail, st.binary(max_size=50)))
def test_what_nobody_packed_is_a_locator_or_a_value_error(packed: bytes) -> None:
    with contextlib.suppress(ValueError):
        RowLocator.unpack(packed)


@pytest.mark.parametrize(
    "packed",
    [
        b"", b"w", b"w\0u\0", b"x\0u\0\0", b"w\0u\0[1]\0", b"w\0u\0{\0", b"w\0u\0" + b"[" * 2000 + b"\0", b"w\0u\0\0zz",
        b"w\0u\0\0\0", b"b\0no-such-reason\0\0", b"w\0\xff\0\0", b"w\0" + b"a" * MAX_LOCATOR_BYTES + b"\0\0",
    ],
)  # fmt: skip
def test_lies_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError):
        RowLocator.unpack(packed)


def test_columns_that_do_not_fit_go_whole_the_largest_first() -> None:
    columns = {"small": "x", "large": "y" * MAX_COLUMNS_BYTES, "middle": "ä" * 500}
    packed = RowLocator("http://a/", columns).pack()
    assert RowLocator.unpack(packed).columns == {"small": "x", "middle": "ä" * 500}
    assert len(packed) <= MAX_LOCATOR_BYTES
    assert RowLocator.unpack(RowLocator("http://a/", {"large": "y" * 5000}).pack()).columns == {}


def test_the_checksum_is_of_all_rows_in_their_order() -> None:
    assert chained(chained(0, "a"), "b") != chained(chained(0, "b"), "a")
    assert chained(chained(0, "ab"), "") != chained(chained(0, "a"), "b")
