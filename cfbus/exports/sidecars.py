"""Sidecars: a text file beside each picture, as trainers read them.

With one slot ``<key>.txt``, with several ``<key>.<slot>.txt``. Knows names and texts. Invariants: a file that
is there and says something else is never replaced, unless that was asked for; no file is ever half written.
"""

from __future__ import annotations

import os
from pathlib import Path

from cfbus.exports import places
from cfbus.exports.log import Tally
from cfbus.exports.parts import Part
from cfbus.exports.request import Request
from cfbus.exports.selection import Selection
from cfbus.store.durable import disk_errors

ROWS = 2000
_WRITTEN, _KEPT = Tally(written=1), Tally(kept=1)


class Sidecars:
    """Writes the captions of parts as text files below a folder."""

    def __init__(self, request: Request, out: Path, work: Path, *, overwrite: bool) -> None:
        self._request = request
        self._out = out
        self._staged = work / "text"
        self._overwrite = overwrite

    def write(self, selection: Selection, part: Part, rows: int) -> Tally:
        """The part that ``selection`` has loaded."""
        tally = Tally()
        several = len(selection.slots) > 1
        taken: set[str] = set()
        found = selection.connection.execute("SELECT shard, item_key, slot, caption FROM rows")
        while batch := found.fetchmany(ROWS):
            for shard, key, slot, caption in batch:
                name = self._name(shard, key, slot if several else "")
                if name is None or not places.inside(self._out, (self._out / name).parent):
                    tally += Tally(unsafe=1)
                elif name in taken:
                    tally += Tally(doubled=1)
                else:
                    taken.add(name)
                    tally += self._place(self._out / name, caption)
        os.sync()  # once for all: a flush for each of so many small files would take hours
        return tally

    def _name(self, shard: str, key: str, slot: str) -> str | None:
        stem = places.stem(f"{shard.removesuffix('.tar')}/{key}" if self._request.by_shard else key)
        return None if stem is None else f"{stem}.{slot}.txt" if slot else f"{stem}.txt"

    def _place(self, path: Path, caption: str) -> Tally:
        content = caption.encode() + b"\n"
        with disk_errors(path):
            if self._overwrite:
                self._stage(content)
                self._staged.replace(path)
                return _WRITTEN
            try:
                with open(path, "rb") as there:
                    return _WRITTEN if there.read(len(content) + 1) == content else _KEPT
            except FileNotFoundError:
                self._stage(content)
            except IsADirectoryError:
                return _KEPT
            return self._link(path)

    def _stage(self, content: bytes) -> None:
        self._staged.unlink(missing_ok=True)
        self._staged.write_bytes(content)

    def _link(self, path: Path) -> Tally:
        try:
            os.link(self._staged, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            return _KEPT
        except PermissionError:  # a file system without hard links
            if path.exists() or path.is_symlink():
                return _KEPT
            self._staged.replace(path)
        return _WRITTEN
