"""The grid as one HTML file: pictures and style in it, no script, nothing fetched.

Knows the templates and the gallery; nothing of HTTP. Invariant: all that comes from the store is escaped, and the file
says in its own Content-Security-Policy that nothing but its own pictures and style is to be loaded.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

from cfbus.gallery.app import templates
from cfbus.gallery.pictures import NoPictureError, Pictures
from cfbus.gallery.query import Entry, Filters, Gallery
from cfbus.store.durable import disk_errors, new_file, publish


def entries(gallery: Gallery, filters: Filters, most: int) -> Iterator[Entry]:
    """The first items, in the order of the dataset."""
    left, after = most, None
    while left > 0:
        page = gallery.page(filters, "dataset", after)
        yield from page.entries[:left]
        left -= len(page.entries)
        after = page.after
        if after is None:
            return


def write(
    path: Path,
    name: str,
    gallery: Gallery,
    pictures: Pictures,
    filters: Filters,
    most: int,
    done: Callable[[int], None],
) -> int:
    """Write the file, whole or, where there are no such items, not at all; returns how many are in it."""
    shown: list[tuple[Entry, str]] = []
    for entry in entries(gallery, filters, most):
        try:
            picture = base64.b64encode(pictures.jpeg(entry.shard, entry.index, "small")).decode()
        except NoPictureError:
            picture = ""
        shown.append((entry, picture))
        done(len(shown))
    if not shown:
        return 0
    style = (Path(__file__).parent / "static" / "gallery.css").read_text(encoding="utf-8")
    text = (
        templates()
        .get_template("static.html")
        .render(name=name, figures=gallery.figures(), shown=shown, style=style, given=filters.given())
    )
    staged = path.with_name(f".{path.name}.part")
    with disk_errors(path), new_file(staged) as file:
        file.write(text.encode("utf-8", "replace"))
    with disk_errors(path):
        publish(staged, path)
    return len(shown)
