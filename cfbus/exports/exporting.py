"""An export from its beginning, or from where it was cut off, to its end.

Reads a store beside its writer and takes no lock of it. Invariants: all parts are of the same position of the
store, however long it takes; memory is that of one part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cfbus.errors import DamagedStoreError, UsageError
from cfbus.exports import credits
from cfbus.exports.log import Log, Tally, work_folder
from cfbus.exports.parts import Part, Stored
from cfbus.exports.request import Format, Request, nearest_unknown
from cfbus.exports.selection import Selection
from cfbus.exports.sidecars import Sidecars
from cfbus.exports.tables import Tables
from cfbus.exports.tars import Tars
from cfbus.store.durable import disk_errors, make_dir
from cfbus.store.folder import Store

OnPart = Callable[[int, int, int], None]
"""Items behind us, of how many, rows written."""


class Sink(Protocol):
    """What writes a part."""

    def write(self, selection: Selection, part: Part, rows: int) -> Tally:
        """The part that ``selection`` has loaded, which has so many rows."""


@dataclass(frozen=True)
class Outcome:
    """What an export came to: in all, and up to which position of the store."""

    tally: Tally
    position: int
    resumed: bool


def export(store: Store, out: Path, request: Request, *, overwrite: bool, on_part: OnPart) -> Outcome:
    """Write all that is asked for. Raises what ``Log.open`` and ``Selection.load`` do."""
    stored = Stored.read(store)
    nearest_unknown(request.slots, stored.slots, "slot")
    stored.chosen_shards(request.shards)
    if out.resolve().is_relative_to(store.root.resolve()):
        raise UsageError("The output lies in the store.", "Name a folder outside of it.")
    make_dir(out)
    out = out.resolve()
    with (
        Log.open(out, request, store.store_id, stored.position, overwrite=overwrite) as log,
        work_folder(out, request) as work,
        Selection(stored, request, log.position, work) as selection,
    ):
        resumed = log.next_part > 0
        if request.pseudonyms:
            selection.rename(_pseudonyms(stored, request, selection))
        sink = _sink(request, out, work, log, overwrite=overwrite)
        _write(stored, request, log, selection, sink, on_part)
        if log.tally.written:
            called = {} if request.pseudonyms else credits.names(store)
            credits.write(out, store, log, called, overwrite=overwrite)
        with disk_errors(out):
            for old in log.end():
                (out / old).unlink(missing_ok=True)
        return Outcome(log.tally, log.position, resumed)


def _sink(request: Request, out: Path, work: Path, log: Log, *, overwrite: bool) -> Sink:
    if request.format is Format.TXT:
        return Sidecars(request, out, work, overwrite=overwrite)
    if request.format is Format.WEBDATASET:
        return Tars(request, out, work, log, overwrite=overwrite)
    return Tables(request, out, work, log, overwrite=overwrite)


def _parts(stored: Stored, request: Request) -> list[Part]:
    return list(stored.parts(request.shards, whole_shards=request.format is Format.WEBDATASET))


def _write(stored: Stored, request: Request, log: Log, selection: Selection, sink: Sink, on_part: OnPart) -> None:
    parts = _parts(stored, request)
    total, behind = sum(part.items for part in parts), 0
    for part in _present(stored, request, parts):
        behind += part.items
        if part.number >= log.next_part:
            left = None if request.limit is None else request.limit - log.tally.written
            if left is not None and left <= 0:
                break
            rows = selection.load(part, left)
            counted = selection.contributors()
            log.part(part.number, sink.write(selection, part, rows), _shown(selection, counted))
        on_part(behind, total, log.tally.written)


def _shown(selection: Selection, counted: Mapping[str, int]) -> Mapping[str, int]:
    return {selection.called(who): count for who, count in counted.items()}


def _present(stored: Stored, request: Request, parts: list[Part]) -> Iterator[Part]:
    """The parts; a compaction may meanwhile have put other files in the place of theirs."""
    for part in parts:
        if all(Path(path).exists() for path in part.files):
            yield part
            continue
        again = {one.number: one for one in _parts(Stored.read(stored.store), request)}
        if part.number not in again:
            raise DamagedStoreError(
                f"Segments of {stored.store.root} are gone.", "Put them back from a backup, and export again."
            )
        yield again[part.number]


def _pseudonyms(stored: Stored, request: Request, selection: Selection) -> Mapping[str, str]:
    counted: Counter[str] = Counter()
    for part in _present(stored, request, _parts(stored, request)):
        selection.load(part, None)
        counted.update(selection.contributors())
    return credits.pseudonyms(counted)
