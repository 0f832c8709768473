"""Datasets that are plain pictures, as ``imagefolder`` of the library `datasets` has them, with lists beside them.

What it is for: `Metadata`, the columns that a ``metadata.csv`` or ``metadata.jsonl`` has for the pictures near it; and
`inside`, the only way from a path that somebody wrote to one in a dataset.
What it must not know: where the files lie.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cfbus.logs import display
from cfbus.sources.base import LeftOut, ReadError, ReadReason
from cfbus.sources.list_rows import BadListError, open_list

METADATA: Final = ("metadata.csv", "metadata.jsonl")
MAX_METADATA_BYTES: Final = 1 << 30
_NAMES: Final = ("file_name", "image_file_name")
_MAX_ROWS: Final = 5_000_000


def is_metadata(path: str) -> bool:
    """Whether this is a list of columns, by its name."""
    return posixpath.basename(path) in METADATA


def inside(folder: str, path: str) -> str:
    """A path as it stands in a file of this folder of a dataset. Raises ReadError for one that could lead out of it."""
    steps = path.split("/")
    if any(step.startswith(".") or not step or "\0" in step for step in steps):
        raise ReadError(ReadReason.OUTSIDE, "The path in place of its image leads out of the dataset.", "item")
    return posixpath.join(folder, path)


@dataclass(slots=True)
class Metadata:
    """Columns by the paths of pictures."""

    _rows: dict[str, Mapping[str, object]] = field(default_factory=dict)

    def add(self, path: str, file: Path, left_out: LeftOut) -> None:
        """What the list at this path of the dataset, a file here, says. What makes no sense is told."""
        folder = posixpath.dirname(path)
        try:
            with open_list(file) as opened:
                name = next((name for name in _NAMES if name in opened.names), None)
                if name is None:
                    raise BadListError("has no column file_name")
                for row in opened.rows:
                    self._take(folder, name, row)
        except BadListError as error:
            left_out.add(display(path, 1000), f"{error}; its pictures lack these columns", grave=True)

    def _take(self, folder: str, name: str, row: Mapping[str, object] | str) -> None:
        said = "" if isinstance(row, str) else row.get(name)
        if not isinstance(said, str) or isinstance(row, str) or not said:
            return
        if len(self._rows) == _MAX_ROWS:
            raise BadListError(f"has more than {_MAX_ROWS} rows")
        self._rows[posixpath.join(folder, said)] = {each: value for each, value in row.items() if each != name}

    def of(self, path: str) -> Mapping[str, object]:
        """The columns of the picture at this path."""
        return self._rows.get(path, {})
