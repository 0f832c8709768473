"""How cost grows, as text: for each curve a small table, with an exponent for each cost and bars that show its form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from benchmarks.figures import Growth, Growths
from benchmarks.layout import on_machine, table

_BARS = "▁▂▃▄▅▆▇█"


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The slope of the line through the logarithms; None where a cost is too small to have been seen."""
    if min(ys) <= 0 or len(xs) < 2:
        return None
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def form(ys: Sequence[float]) -> str:
    """A bar for each value, the height by its logarithm; level when all are within a fifth of each other."""
    least = min((y for y in ys if y > 0), default=1.0)
    known = [math.log(max(y, least)) for y in ys]
    low, high = min(known), max(known)
    span = max(high - low, math.log(1.2))
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in known)


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def curve_table(curve: Growth) -> str:
    """The costs, then the exponent and the form of each."""
    columns = list(zip(*curve.rows, strict=True))
    head = [curve.grows, *curve.costs]
    rows = [[f"{row[0]:,.0f}", *map(number, row[1:])] for row in curve.rows]
    powers = ["*exponent*", *(_shown(exponent(columns[0], ys)) for ys in columns[1:])]
    last = ["*at the end*", *(_shown(exponent(columns[0][-2:], ys[-2:])) for ys in columns[1:])]
    return table([head, *rows, powers, last, ["*form*", *map(form, columns[1:])]])


def _shown(slope: float | None) -> str:
    return "" if slope is None else f"{slope:.2f}"


def whole(report: Growths) -> str:
    """All curves, and where they were measured."""
    told = (
        "The exponent is the slope of the line through the logarithms: 0 where a cost stays as it is, 1 where it grows"
        " as its cause does; at the end, between the last two rows, a fixed cost hides it least. The bars show the same"
        " values, the height by the logarithm."
    )
    parts = [f"{report.when}, {on_machine(report.machine)}; the load of the machine was {report.load:.1f}.", told]
    for curve in report.curves:
        parts += [f"**{curve.name[0].upper()}{curve.name[1:]}**", curve_table(curve)]
    return "\n\n".join(parts)
