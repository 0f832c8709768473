"""Locators of tables and pictures: there and back, and what anybody may have made."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.sources.list_locators import RowLocator
from cfbus.sources.table_files import Identity
from cfbus.sources.table_locators import Origin, PictureAt, TableRow, unpack

COMMIT = "0123456789" * 4
ORIGINS = [Origin(), Origin.of(COMMIT, "main")]


@pytest.mark.parametrize("origin", ORIGINS)
def test_locators_come_back(origin: Origin) -> None:
    row = TableRow(7, (1 << 32) - 1, Identity(1 << 40, 5), origin)
    picture = PictureAt(RowLocator("a/ü.png", {"title": "x", "n": 3}), origin)
    assert unpack(row.pack()) == row
    assert unpack(picture.pack()) == picture
    assert len(row.pack()) <= 45


def test_an_origin_knows_what_it_was_called() -> None:
    origin = Origin.of(COMMIT, "main")
    assert origin.is_of("main")
    assert not origin.is_of("")
    assert not Origin().is_of("")


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda rest: b"t" + rest),
                 st.binary(max_size=60).map(lambda rest: b"p" + rest)))  # fmt: skip
def test_what_anybody_made_is_a_locator_or_a_value_error(packed: bytes) -> None:
    with suppress(ValueError):
        unpack(packed)
