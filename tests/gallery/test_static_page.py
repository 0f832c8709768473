"""The grid as one file."""

from __future__ import annotations

import re
from pathlib import Path

from gallery.rig import HOSTILE, Shelf
from gallery.test_app import Seen

from cfbus.gallery.app import lines
from cfbus.gallery.pictures import Pictures
from cfbus.gallery.query import Filters, Gallery
from cfbus.gallery.static_page import write
from cfbus.sources.folder import FolderSource


def written(filled: Shelf, path: Path, filters: Filters, most: int) -> tuple[int, str]:
    pictures = Pictures(filled.store, FolderSource([filled.pictures]))
    try:
        count = write(path, "<b>", Gallery(filled.store.root), pictures, filters, most, done=lambda _: None)
    finally:
        pictures.close()
    return count, path.read_text()


def test_all_is_in_one_inert_file(filled: Shelf, tmp_path: Path) -> None:
    count, text = written(filled, tmp_path / "grid.html", Filters(), 10)
    seen = Seen(text)
    assert count == 10
    assert "script" not in seen.tags
    assert seen.tags.count("img") == text.count("data:image/jpeg;base64,/9j/") == 4
    assert all(lines(f"{hostile} short") in seen.text for hostile in HOSTILE)
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg)', text)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.html"]


def test_filters_and_limits(filled: Shelf, tmp_path: Path) -> None:
    assert written(filled, tmp_path / "a.html", Filters(slot="tags"), 100)[0] == 3
    assert written(filled, tmp_path / "a.html", Filters(), 120)[0] == 120
