"""Files named by patterns: braces (``shard-{0000..0099}.tar``) and globs (``data/*.tar``), each with a name of its own.

What it is for: `Patterns`, the files that a person's patterns stand for, now.
What it must not know: what is in the files.

Rules:
- The *root* of a pattern is the folder before its first brace or star; a folder is a pattern for all files in it, and
  in the folders in it, that have one of the suffixes (those of tars unless others are given). Roots get labels like the
  roots of pictures: their base name, ``.2`` and so on for another root of that name. A file's name is ``<label>/<its
  path below the root>``. So a name does not depend on which other files are there, nor on where the root is mounted.
- A file that two patterns stand for counts once.
- What is written out or stands in braces is expected to be there; what a glob stands for is what it finds. A path
  that exists as it is written is no pattern, whatever characters it has.
- Hidden files and folders (a dot first) are not found by globs or in folders.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import braceexpand

from cfbus.config_types import is_url
from cfbus.errors import SourceError
from cfbus.sources.base import LeftOut, free_label, shown

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
MAX_FILES: Final = 1_000_000
MAX_NAME_BYTES: Final = 400
_RANGE: Final = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_MAGIC: Final = frozenset("*?[{")


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a pattern stands for; ``name`` is its shard's."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class _Pattern:
    given: str
    label: str
    root: str


class Patterns:
    """The files that these patterns stand for. Raises SourceError for a pattern that makes no sense."""

    def __init__(
        self, patterns: Sequence[Path], *, follow_links: bool = False, suffixes: tuple[str, ...] = TAR_SUFFIXES
    ) -> None:
        self._follow_links = follow_links
        self._suffixes = suffixes
        self._patterns = list(_labelled([os.path.normpath(pattern) for pattern in patterns]))

    @property
    def labels(self) -> set[str]:
        """The labels of all roots."""
        return {each.label for each in self._patterns}

    @property
    def shown(self) -> str:
        """The patterns for people."""
        names = [shown(os.fsencode(each.given)) for each in self._patterns]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def files(self, left_out: LeftOut) -> Iterator[Found]:
        """Each file once, those of a pattern in the order of their paths. What cannot be told apart or shown is left
        out. Raises SourceError when there are too many."""
        seen: set[str] = set()
        for pattern in self._patterns:
            for path in self._expanded(pattern.given, left_out):
                if path in seen:
                    continue
                name = f"{pattern.label}/{os.path.relpath(path, pattern.root)}"
                problem = name_problem(name)
                if problem:
                    left_out.add(shown(os.fsencode(path)), problem, grave=True)
                    continue
                if len(seen) == MAX_FILES:
                    raise SourceError(f"{self.shown}: more than {MAX_FILES} files.", "Make several datasets of them.")
                seen.add(path)
                yield Found(name, Path(path))

    def _expanded(self, given: str, left_out: LeftOut) -> Iterator[str]:
        spread = [given] if os.path.lexists(given) else expanded_braces(given, shown(os.fsencode(given)))
        for one in islice(spread, MAX_FILES + 1):
            if os.path.isdir(one):  # noqa: PTH112 - never raises
                yield from self._in_folder(one, left_out)
            elif glob.has_magic(one) and not os.path.lexists(one):
                yield from sorted(glob.iglob(one, recursive=True), key=os.fsencode)  # noqa: PTH207 - text, not Path
            else:
                yield one

    def _in_folder(self, folder: str, left_out: LeftOut) -> Iterator[str]:
        def failed(error: OSError) -> None:
            left_out.add(shown(os.fsencode(error.filename)), f"cannot be read: {error.strerror}", grave=True)

        entered: set[tuple[int, int]] = set()
        for below, folders, names in os.walk(folder, onerror=failed, followlinks=self._follow_links):
            if self._follow_links and not _first_visit(below, entered):
                folders.clear()
                continue
            folders[:] = sorted((each for each in folders if not each.startswith(".")), key=os.fsencode)
            for name in sorted(names, key=os.fsencode):
                if name.lower().endswith(self._suffixes) and not name.startswith("."):
                    yield os.path.join(below, name)  # noqa: PTH118


def _first_visit(folder: str, entered: set[tuple[int, int]]) -> bool:
    try:
        status = os.stat(folder)  # noqa: PTH116 - text, not Path
    except OSError:
        return False  # it went away
    identity = status.st_dev, status.st_ino
    first = identity not in entered
    entered.add(identity)
    return first


def _labelled(patterns: Sequence[str]) -> Iterator[_Pattern]:
    labels: dict[str, str] = {}
    for given in patterns:
        root = _root(given)
        label = next((each for each, known in labels.items() if known == root), "")
        if not label:
            label = free_label(os.path.basename(root), labels)  # noqa: PTH119
            labels[label] = root
        yield _Pattern(given, label, root)


def _root(pattern: str) -> str:
    """The folder that a pattern starts from."""
    parts = pattern.split("/")
    magic = next((at for at, part in enumerate(parts) if _MAGIC & set(part)), None)
    if magic is not None and not os.path.lexists(pattern):
        return "/".join(parts[:magic]) or "/"
    return pattern if os.path.isdir(pattern) else os.path.dirname(pattern)  # noqa: PTH112, PTH120


def expanded_braces(pattern: str, called: str) -> Iterator[str]:
    """What a pattern with braces stands for; ``called`` is the pattern for people. Raises SourceError."""
    # The library makes all numbers of a range at once, so they are counted first.
    for first, last in _RANGE.findall(pattern):
        if len(first) + len(last) > 30 or abs(int(last) - int(first)) >= MAX_FILES:
            raise SourceError(f"{called}: more than {MAX_FILES} files.", "Name fewer at once.")
    try:
        yield from braceexpand.braceexpand(pattern)
    except ValueError as error:
        why = "" if is_url(pattern) else f": {error}"  # it quotes the pattern, which may hold a secret
        raise SourceError(
            f"{called}: its braces cannot be read{why}.",
            "Write them like shard-{0000..0099}.tar or {train,val}-*.tar.",
        ) from None


def name_problem(name: str) -> str:
    """Why this cannot be the name of a shard, as the end of a sentence; empty if it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8, which the tables need"
    if size > MAX_NAME_BYTES:
        return f"its name has more than {MAX_NAME_BYTES} bytes"
    return "" if name.isprintable() else "its name has characters that cannot be shown"
