"""Lines for a screen of fixed width: cells, bars, sparklines, tables. Pure; knows nothing of what they show.

Every text that comes from elsewhere goes through ``display()`` here, and is cut to the cells that it has: a name of
wide or hostile characters moves no column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from cfbus.logs import display

BLOCKS = " ▁▂▃▄▅▆▇█"
Row = TypeVar("Row")


def cut(text: str, width: int) -> str:
    """``text`` harmless and in at most ``width`` cells; what is cut off is marked."""
    harmless = display(text, max(4 * width, 8))
    if cell_len(harmless) <= width:
        return harmless
    return set_cell_size(harmless, max(width - 1, 0)) + "…" if width > 0 else ""


def fill(text: str, width: int, *, right: bool = False) -> str:
    """``text`` in exactly ``width`` cells."""
    short = cut(text, width)
    space = " " * (width - cell_len(short))
    return space + short if right else short + space


def bar(share: float, width: int, also: float = 0.0) -> Text:
    """A bar of ``width`` cells: ``share`` of it done, ``also`` of it under way (0 to 1 each)."""
    done = round(min(max(share, 0.0), 1.0) * width)
    begun = min(round(min(max(also, 0.0), 1.0) * width), width - done)
    return Text.assemble(("█" * done, "green"), ("▒" * begun, "cyan"), ("░" * (width - done - begun), "dim"))


def spark(values: Sequence[float], width: int) -> str:
    """The last ``width`` values as blocks, the highest a full one."""
    shown = list(values)[-width:] if width > 0 else []
    most = max(shown, default=0.0)
    steps = len(BLOCKS) - 1
    return "".join(BLOCKS[0 if most <= 0 else max(round(value / most * steps), value > 0)] for value in shown)


def short_number(number: float) -> str:
    """At most five characters: 999, 12.3k, 4.5M."""
    for unit, size in (("", 1), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)):
        if abs(number) < 999.5 * size or unit == "G":
            scaled = number / size
            digits = 0 if scaled >= 99.95 or (not unit and scaled == int(scaled)) else 1
            return f"{scaled:.{digits}f}{unit}"
    raise AssertionError


def short_bytes(size: float) -> str:
    """Bytes for people: 12 KiB, 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """A column of a table: ``least`` cells wide, and more where ``grows``; shown only on screens of ``from_width``."""

    title: str
    cell: Callable[[Row], str]
    least: int
    right: bool = False
    grows: int = 0
    from_width: int = 0
    style: Callable[[Row], str] = lambda _: ""


def table(columns: Sequence[Column[Row]], rows: Sequence[Row], width: int, marked: int | None = None) -> list[Text]:
    """A head and a line for each row, each exactly ``width`` cells; ``marked`` is the number of a row."""
    shown = [column for column in columns if column.from_width <= width]
    widths = _widths(shown, width)
    head = Text(" ".join(fill(c.title, w, right=c.right) for c, w in zip(shown, widths, strict=True)), style="bold dim")
    lines = [head]
    for number, row in enumerate(rows):
        line = Text()
        for column, own in zip(shown, widths, strict=True):
            line.append(fill(column.cell(row), own, right=column.right), style=column.style(row) or None)
            line.append(" ")
        line.truncate(width)
        line.pad_right(width - line.cell_len)
        if number == marked:
            line.stylize("reverse")
        lines.append(line)
    return lines


def _widths(columns: Sequence[Column[Row]], width: int) -> list[int]:
    widths = [column.least for column in columns]
    room = max(width - sum(widths) - len(widths) + 1, 0)
    shares = sum(column.grows for column in columns)
    if shares:
        widths = [own + room * column.grows // shares for own, column in zip(widths, columns, strict=True)]
    return widths


def beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Two blocks of lines side by side, the left one ``width`` cells wide with the gap."""
    lines = []
    for at in range(max(len(left), len(right))):
        line = left[at].copy() if at < len(left) else Text()
        line.truncate(width - 2)
        line.pad_right(width - line.cell_len)
        lines.append(line + right[at] if at < len(right) else line)
    return lines
