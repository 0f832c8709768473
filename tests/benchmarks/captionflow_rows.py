"""Reads what CaptionFlow has on the disk, as any reader of Lance files would; runs in CaptionFlow's environment.

``watch DATASET OUT`` adds a line to OUT, the time and how many rows there are, whenever that has changed. ``keys
DATASET`` prints the image of each row with captions. Stands alone, for it is run by another Python.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05


def _versions(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry.name for entry in (path / "_versions").iterdir())
    return []


def watch(lance: Any, path: Path, out: Path) -> None:
    """Until it is ended."""
    seen: list[str] = []
    while True:
        found = _versions(path)
        if found and found != seen:
            # A version that is being written or taken away at this moment is looked at again.
            with contextlib.suppress(OSError, ValueError):
                count = lance.dataset(str(path)).count_rows()
                with out.open("a") as lines:
                    lines.write(f"{time.time()} {count}\n")
                seen = found
        time.sleep(POLL_SECONDS)


def keys(lance: Any, path: Path) -> list[str]:
    """The names of the images, one for each row that has captions."""
    if not _versions(path):
        return []
    table = lance.dataset(str(path)).to_table()
    if "captions" not in table.column_names:
        return []
    rows = zip(table["filename"].to_pylist(), table["captions"].to_pylist(), strict=True)
    return [Path(name).name for name, captions in rows if captions]


def main() -> None:
    """One of the two."""
    lance = importlib.import_module("lance")
    if sys.argv[1] == "watch":
        watch(lance, Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.stdout.write(json.dumps(keys(lance, Path(sys.argv[2]))) + "\n")


if __name__ == "__main__":
    main()
