"""`cfbus-top`'s screen: a pure function from a snapshot and a size to lines.

Invariant: exactly ``height`` lines, none wider than ``width`` cells, whatever the snapshot holds.
"""

from __future__ import annotations

from rich.text import Text

from cfbus.tools import progress, top_panels
from cfbus.tools.top_lines import beside, cut
from cfbus.tools.top_state import Snapshot

NARROW, WIDE, LOW = 60, 120, 12
_PANELS = {"quality": top_panels.quality, "contributors": top_panels.contributors, "activity": top_panels.activity}


def render(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """The screen."""
    lines = _small(snapshot, width) if width < NARROW or height < LOW else _whole(snapshot, width, height)
    lines = [line.copy() for line in lines[:height]]
    for line in lines:
        line.truncate(width)
    return lines + [Text() for _ in range(height - len(lines))]


def _small(snapshot: Snapshot, width: int) -> list[Text]:
    """For a window that is too small for more: the state, how far, how fast."""
    words, style = top_panels.state_of(snapshot)
    status = snapshot.seen.status
    lines = [Text(cut(words, width), style=style)]
    if status is not None:
        percent = f"{100 * status.done / max(status.items, 1):.1f} %"
        lines += [Text(cut(f"{percent} {progress.rate(status)}", width)), Text(cut(progress.left(status), width))]
    return [*lines, Text(cut(f"{NARROW} by {LOW} shows more", width), style="dim")]


def _whole(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    view = snapshot.view
    top = [top_panels.head(snapshot, width), *top_panels.run(snapshot, width), top_panels.queues(snapshot, width)]
    foot = _foot(snapshot, width)
    room = height - len(top) - 1
    if view.help:
        middle = top_panels.help_page(width)[:room]
    elif view.detail and snapshot.workers:
        chosen = snapshot.workers[min(view.selected, len(snapshot.workers) - 1)]
        middle = top_panels.detail(snapshot, chosen, width)[:room]
    else:
        middle = _panels(snapshot, width, room)
    return [*top, *middle, *[Text() for _ in range(room - len(middle))], foot]


def _panels(snapshot: Snapshot, width: int, room: int) -> list[Text]:
    """Workers get half of the room; side by side below them what fits, else what was chosen."""
    below = max(room // 2, 4)
    count = len(snapshot.seen.workers)
    more = f"{count}, by {snapshot.view.sort}" + (f", with {snapshot.view.filter!r}" if snapshot.view.filter else "")
    lines = [top_panels.title("Workers", width, cut(more, 60)), *top_panels.workers(snapshot, width, room - below - 1)]
    lines += [Text() for _ in range(room - below - len(lines))]
    if width >= WIDE:
        half = width // 2
        tall = max(below // 2, 4)
        pair = beside(
            top_panels.quality(snapshot, half - 2, tall), top_panels.contributors(snapshot, width - half, tall), half
        )
        return lines + pair + top_panels.activity(snapshot, width, below - len(pair))
    return lines + _PANELS[snapshot.view.panel](snapshot, width, below)


def _foot(snapshot: Snapshot, width: int) -> Text:
    if snapshot.view.typing:
        return Text(cut(f"/{snapshot.view.filter}_   enter: keep, escape: all", width), style="reverse")
    return Text(cut("q leave  s sort  / filter  ↑↓ enter detail  tab panel  p freeze  ? help", width), style="dim")
