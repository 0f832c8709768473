"""After damage: what of the journal is whole, and a journal that opens again.

Knows files and frames; nothing of the bus. The store is locked. Whole frames keep their positions, because those were
told; what is lost between them is said in ``journal/damaged/POSITION.lost``, and the damaged files are kept there.

Invariants: nothing is thrown away but what ``carve`` cannot read; a salvage that is cut off leaves a journal that does
not open, and can be made again; no item gets a second row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cfbus.core.frame import JournalFrame
from cfbus.core.ranges import RangeSet
from cfbus.errors import DamagedStoreError
from cfbus.store.carving import carve
from cfbus.store.durable import disk_errors, fsync_dir, make_dir, new_file, publish, remove_database, remove_file
from cfbus.store.folder import Store
from cfbus.store.journal import SALVAGING, JournalFile, is_given_up, is_known, lost_path, opened, scan, write_closed
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import DoneRange

Span = tuple[int, int]
"""Positions, both included."""


@dataclass(frozen=True)
class Inspected:
    """A journal file, ``problem`` empty when it is whole. ``gap`` are positions before it that are nowhere."""

    path: Path
    first: int
    last: int
    problem: str = ""
    gap: Span | None = None
    frames: Mapping[int, JournalFrame] = field(default_factory=dict, repr=False)
    done: tuple[DoneRange, ...] = ()

    def without(self, done: _Done) -> Inspected:
        """Without the frames some of whose items have a row elsewhere: what a transaction left that was taken back."""
        return replace(self, frames={at: frame for at, frame in self.frames.items() if done.add(frame)})

    @property
    def kept(self) -> list[Span]:
        """The positions that are whole."""
        return spans(self.frames if self.problem else range(self.first, self.last + 1))

    @property
    def lost(self) -> list[Span]:
        """The positions that are not, as far as is known: what followed at the end cannot be."""
        here = [one for one in range(self.first, self.last + 1) if one not in self.frames] if self.problem else []
        return [*([self.gap] if self.gap else []), *spans(here)]


def spans(positions: Iterable[int]) -> list[Span]:
    """Ascending positions as runs without gaps."""
    found: list[Span] = []
    for position in positions:
        if found and found[-1][1] == position - 1:
            found[-1] = (found[-1][0], position)
        else:
            found.append((position, position))
    return found


def inspect(store: Store, manifest: Manifest) -> list[Inspected]:
    """Look at every journal file that is not sealed, after a salvage that was cut off is taken back."""
    _undo(store)
    return examine(store, manifest)


def examine(store: Store, manifest: Manifest) -> list[Inspected]:
    """The same without that: the store need not be locked, and nothing is changed but in ``staging/``."""
    sealed = {segment.first for segment in manifest.segments()}
    with disk_errors(store.journal_dir):
        paths = [path for path in sorted(store.journal_dir.glob("*.sqlite")) if _first(path) not in sealed]
    done = _Done(manifest.done())
    found: list[Inspected] = []
    for path in paths:
        last = found[-1].last if found else manifest.last_position()
        following = [_first(other) - 1 for other in paths if other > path]
        found.append(_inspect(store, manifest, path, last, following[0] if following else None))
        done.know(found[-1].done)
    return [one if not one.problem else one.without(done) for one in found]


def _first(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


def _inspect(store: Store, manifest: Manifest, path: Path, before: int, end: int | None) -> Inspected:
    """``before`` is the position before this file, ``end`` the one before the next."""
    first = _first(path)
    gap = (before + 1, first - 1) if first > before + 1 and not is_given_up(path.parent, before + 1) else None
    file, problem = _look(store, manifest, path, first)
    if first <= before:
        problem = f"its positions begin at {first}, though {before + 1} should come next"
    if not problem:
        return Inspected(path, first, file.last, gap=gap, done=tuple(file.done))
    frames = {
        at: frame
        for at, frame in carve(path).items()
        if max(before, first - 1) < at <= (end or at) and is_known(frame, manifest)
    }
    return Inspected(path, first, max(frames, default=first - 1) if end is None else end, problem, gap, frames)


def _look(store: Store, manifest: Manifest, path: Path, first: int) -> tuple[JournalFile, str]:
    """What a copy of a file says, and what is wrong with it; a copy, because SQLite changes what it opens."""
    copy = store.staging_dir / f"inspected-{path.name}"
    try:
        for part in ("", "-wal"):
            original = path.with_name(path.name + part)
            if original.exists():
                with disk_errors(copy):
                    shutil.copyfile(original, copy.with_name(copy.name + part))
        with opened(copy) as connection:
            return scan(copy, first, connection, manifest), ""
    except DamagedStoreError as error:
        what = error.message.partition(" is damaged: ")[2].rstrip(".") or error.message
        return JournalFile(path, first, first - 1), what
    finally:
        remove_database(copy)


class _Done:
    """Which items have their row."""

    def __init__(self, ranges: Iterable[DoneRange]) -> None:
        self._items: dict[tuple[int, int], RangeSet] = {}
        self.know(ranges)

    def know(self, ranges: Iterable[DoneRange]) -> None:
        """These have it."""
        for number, shard, start, end in ranges:
            self._items.setdefault((number, shard), RangeSet()).add(start, end)

    def add(self, frame: JournalFrame) -> bool:
        """Whether none of the frame's items had; now they have."""
        ranges = frame.done()
        if any(
            list(self._items.get((number, shard), RangeSet()).missing(start, end)) != [(start, end)]
            for number, shard, start, end in ranges
        ):
            return False
        self.know(ranges)
        return True


# ---------------------------------------------------------------------- salvage


def salvage(store: Store, found: Sequence[Inspected]) -> None:
    """Make a journal of what is whole. ``found`` is all that ``inspect`` gave."""
    damaged = [one for one in found if one.problem]
    aside = store.journal_dir / "damaged"
    make_dir(aside)
    made = {}
    for one in damaged:
        for first, last in one.kept:
            staged = store.staging_dir / f"salvaged-{first:016d}.sqlite"
            write_closed(staged, [one.frames[at] for at in range(first, last + 1)])
            made[f"{first:016d}.sqlite"] = staged
    moved = dict(_moves(store, damaged, aside))
    _write(store, store.journal_dir / SALVAGING, {"moved": moved, "made": sorted(made)})
    for one in found:
        for first, last in one.lost:
            _write(store, lost_path(store.journal_dir, first), {"first": first, "last": last, "of": one.path.name})
    for old, new in moved.items():
        _move(store.root / old, aside / new)
    for name, staged in made.items():
        publish(staged, store.journal_dir / name)
    remove_file(store.journal_dir / SALVAGING)


def _moves(store: Store, damaged: Sequence[Inspected], aside: Path) -> Iterator[tuple[str, str]]:
    """What goes aside: the damaged files, their logs, and segments that a seal had made of them in vain."""
    for one in damaged:
        log = one.path.with_name(one.path.name + "-wal")
        for path in (one.path, log, *(store.table_path(table, one.first) for table in ("captions", "failures"))):
            if path.exists():
                name = path.name if path.parent == store.journal_dir else f"{path.parent.name}-{path.name}"
                yield str(path.relative_to(store.root)), _free_name(aside, name)


def _free_name(aside: Path, name: str) -> str:
    numbers = (f"{name}.damaged" if number == 1 else f"{name}.damaged-{number}" for number in range(1, 10_000))
    return next(name for name in numbers if not (aside / name).exists())


def _undo(store: Store) -> None:
    """Take a salvage back that was cut off; the damaged files are again where they were."""
    marker = store.journal_dir / SALVAGING
    if not marker.exists():
        return
    with disk_errors(marker):
        plan = json.loads(marker.read_bytes())
    for name in plan["made"]:
        if f"journal/{name}" not in plan["moved"]:
            remove_database(store.journal_dir / name)
    for old, new in plan["moved"].items():
        if (store.journal_dir / "damaged" / new).exists():
            _move(store.journal_dir / "damaged" / new, store.root / old)
    remove_file(marker)


def _move(old: Path, new: Path) -> None:
    with disk_errors(old):
        old.replace(new)
    fsync_dir(new.parent)
    fsync_dir(old.parent)


def _write(store: Store, path: Path, facts: Mapping[str, object]) -> None:
    staged = store.staging_dir / path.name
    with new_file(staged) as file:
        file.write(json.dumps(facts).encode() + b"\n")
    publish(staged, path)
