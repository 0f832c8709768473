"""Figures as text: a median with its spread, a table that is aligned, where it was measured, and a page's marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.figures import Machine


def spread(values: Iterable[float], form: str = ",.0f") -> str:
    """The median, and from where to where they go."""
    known = sorted(values)
    if not known:
        return ""
    middle = format(median(known), form)
    return middle if len(known) == 1 else f"{middle} ({format(known[0], form)} to {format(known[-1], form)})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first as the head, as Markdown that is aligned for those who read it as text."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def on_machine(machine: Machine) -> str:
    """Of what revision, on what, with what versions."""
    changed = f" with {machine.changed_files} files changed" if machine.changed_files else ""
    return (
        f"revision {machine.revision}{changed}. {machine.cores} cores of {machine.processor}, "
        f"{machine.memory_gib:.0f} GiB, Linux {machine.kernel}, {machine.file_system}; Python {machine.python}, "
        f"pyzmq {machine.pyzmq}, libzmq {machine.libzmq}, pyarrow {machine.pyarrow}, SQLite {machine.sqlite}"
    )


def put(page: Path, begin: str, end: str, text: str) -> None:
    """Put this text between two marks in a page, in place of what was there."""
    before, begins, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise ValueError(f"{page} has no {begin} followed by {end}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
