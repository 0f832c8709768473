"""From an item's key to the name of a file. Keys come from strangers: none leads out of the folder.

Knows names and folders, nothing of captions. Invariant: what is returned lies in the folder that was given, also
where links are followed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath

from cfbus.sources.suffixes import is_picture

_LONGEST = 240
"""Bytes of one part of a path, so that a slot and a suffix still fit."""


def stem(key: str) -> str | None:
    """A key without the suffix of a picture, as a relative path; None when it cannot be one."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or len(part.encode(errors="surrogatepass")) > _LONGEST for part in parts):
        return None
    if not key.isprintable():  # line breaks and escape sequences make no file names
        return None
    path = PurePosixPath(key)
    return str(path.with_suffix("") if is_picture(path.name.encode()) else path)


def dotless(path: str) -> str:
    """A key for webdataset, which takes what follows the first dot of the last part for the name of a column."""
    folder, slash, last = path.rpartition("/")
    return folder + slash + last.replace(".", "_")


@lru_cache(maxsize=4096)
def inside(root: Path, folder: Path) -> bool:
    """Whether a folder lies in ``root``, links followed; it is made when it is not there."""
    if not folder.parent.resolve().is_relative_to(root.resolve()) and folder != root:
        return False
    if folder != root and not folder.is_dir():
        if not inside(root, folder.parent):
            return False
        try:
            folder.mkdir()
        except FileExistsError:
            return False
    return folder.resolve().is_relative_to(root.resolve())
