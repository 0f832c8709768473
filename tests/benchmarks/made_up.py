"""Figures that nobody measured, for the tests of tables."""

from __future__ import annotations

from benchmarks.figures import Machine

MACHINE = Machine(
    processor="P", cores=2, memory_gib=1, kernel="k", file_system="f", python="3", pyzmq="1", libzmq="1", pyarrow="1",
    sqlite="1", revision="r", changed_files=0,
)  # fmt: skip


def rows(text: str, beginning: str) -> list[list[str]]:
    """The cells of the lines of tables that begin so."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
