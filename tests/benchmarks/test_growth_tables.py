"""Exponents and bars of the curves."""

from __future__ import annotations

import pytest
from benchmarks import growth_tables
from benchmarks.figures import Growth


@pytest.mark.parametrize(
    ("ys", "slope"), [([3, 3, 3], 0.0), ([2, 20, 200], 1.0), ([1, 100, 10_000], 2.0), ([100, 10, 1], -1.0)]
)
def test_the_exponent_is_that_of_the_power(ys: list[float], slope: float) -> None:
    assert growth_tables.exponent([10, 100, 1000], ys) == pytest.approx(slope)


def test_what_was_too_small_to_be_seen_has_no_exponent() -> None:
    assert growth_tables.exponent([10, 100], [0.0, 1.0]) is None


def test_bars_show_the_form_and_level_what_hardly_differs() -> None:
    assert growth_tables.form([1, 10, 100]) == "▁▅█"
    assert growth_tables.form([100, 101, 100]) == "▁▁▁"


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.0123, "0.0123"), (1.234, "1.23"), (45.67, "45.7"), (12_345.6, "12,346")]
)
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert growth_tables.number(value) == shown


def test_a_curve_is_a_table_with_exponents_and_forms() -> None:
    curve = Growth(name="files", grows="images", costs=("s",), rows=((100, 0.1), (1000, 0.1), (10_000, 1.0)))
    assert growth_tables.curve_table(curve).splitlines() == [
        "| images       | s     |",
        "|--------------|-------|",
        "| 100          | 0.100 |",
        "| 1,000        | 0.100 |",
        "| 10,000       | 1.00  |",
        "| *exponent*   | 0.50  |",
        "| *at the end* | 1.00  |",
        "| *form*       | ▁▁█   |",
    ]
