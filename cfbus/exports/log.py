"""The log of an export: what was asked for, which parts are written, which files are its own.

Lies in a hidden folder in the output, a line of JSON for each event. By it an export that was cut off goes on, and
files of other people are told from its own. Knows nothing of what is in the files.

Invariants: one process at a time has the log; a file is announced before it gets its name; a part that the log
calls written is durable; a line that a crash cut off counts for nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cfbus.errors import StoreInUseError, UsageError
from cfbus.exports.request import Request
from cfbus.logs import display
from cfbus.store.durable import disk_errors, fsync_fd, make_dir

FOLDER = ".cfbus-export"
VERSION = 1


@dataclass(frozen=True)
class Tally:
    """What became of a part, or of all: rows (or images) written, and files that were not."""

    written: int = 0
    kept: int = 0
    """Files of somebody else that were in the way."""
    doubled: int = 0
    """Texts whose file another image of this export had taken."""
    unsafe: int = 0
    """Keys that cannot be the name of a file."""
    missing: int = 0
    """Captions whose image was not found."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def left_out(self) -> int:
        """What should have been written and was not."""
        return self.kept + self.doubled + self.unsafe + self.missing


@dataclass
class _Read:
    """What the lines of a log say."""

    head: dict[str, object] = field(default_factory=dict)
    next_part: int = 0
    tally: Tally = field(default_factory=Tally)
    credits: Counter[str] = field(default_factory=Counter)
    ours: set[str] = field(default_factory=set)
    ended: bool = False
    whole: int = 0
    """Bytes of whole lines."""


class Log:
    """The open log of one export."""

    def __init__(self, path: Path, fd: int, read: _Read) -> None:
        self._path = path
        self._fd = fd
        self._read = read
        self.fresh: set[str] = set()
        """The files of this run of the export and of those that it goes on from."""

    @classmethod
    @contextmanager
    def open(cls, out: Path, request: Request, store_id: str, position: int, *, overwrite: bool) -> Iterator[Log]:
        """Go on with the export that is in ``out``, or begin one at ``position``.

        Raises ``UsageError`` when one that was cut off there was asked for otherwise, ``StoreInUseError`` while
        another process writes it.
        """
        folder = out / FOLDER
        make_dir(folder)
        path = folder / f"{request.format}.jsonl"
        with disk_errors(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _lock(fd, out)
            read = _parse(os.pread(fd, os.fstat(fd).st_size, 0))
            log = cls(path, fd, read)
            head = {"version": VERSION, "store": store_id, "request": request.as_json()}
            log._begin(out, head, position, overwrite=overwrite)
            yield log
        finally:
            os.close(fd)

    @property
    def position(self) -> int:
        """Up to where in the store this export goes."""
        position = self._read.head["position"]
        assert isinstance(position, int)
        return position

    @property
    def next_part(self) -> int:
        """Parts before this one are written."""
        return self._read.next_part

    @property
    def tally(self) -> Tally:
        """What has been written, by all runs."""
        return self._read.tally

    @property
    def credits(self) -> Mapping[str, int]:
        """Captions of each contributor, by what they are called in the export."""
        return self._read.credits

    def is_ours(self, name: str) -> bool:
        """Whether this export, or one before it, made this file."""
        return name in self._read.ours

    def announce(self, name: str) -> None:
        """A file is about to get its name."""
        self.fresh.add(name)
        if name not in self._read.ours:
            self._read.ours.add(name)
            self._write({"file": name})

    def part(self, number: int, tally: Tally, credits: Mapping[str, int]) -> None:
        """A part is written, and durable."""
        self._read.next_part = number + 1
        self._read.tally += tally
        self._read.credits.update(credits)
        self._write({"part": number, "tally": asdict(tally), "credits": dict(credits)})

    def end(self) -> set[str]:
        """All is written; which files are of earlier exports only."""
        self._write({"end": True})
        return self._read.ours - self.fresh

    def _begin(self, out: Path, head: dict[str, object], position: int, *, overwrite: bool) -> None:
        before = self._read
        if before.head and not before.ended and not overwrite:
            if {**before.head, "position": 0, "ours": []} == {**head, "position": 0, "ours": []}:
                self.fresh = before.ours - set(map(str, _list(before.head.get("ours"))))
                os.ftruncate(self._fd, before.whole)
                return
            raise UsageError(
                f"{display(str(out))} holds another export, which was cut off.",
                "Give the same options to go on with it, another folder, or --overwrite to begin anew.",
            )
        self._read = _Read(head={**head, "position": position, "ours": sorted(before.ours)}, ours=before.ours)
        os.ftruncate(self._fd, 0)
        self._write(self._read.head)

    def _write(self, facts: Mapping[str, object]) -> None:
        with disk_errors(self._path):
            os.pwrite(self._fd, json.dumps(facts).encode() + b"\n", os.fstat(self._fd).st_size)
        fsync_fd(self._fd, self._path)


@contextmanager
def work_folder(out: Path, request: Request) -> Iterator[Path]:
    """A folder for what is not finished. Only who has the log may use it; what a crash left there is removed."""
    folder = out / FOLDER / f"{request.format}.work"
    shutil.rmtree(folder, ignore_errors=True)
    make_dir(folder)
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(fd: int, out: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreInUseError(
            f"Another process exports to {display(str(out))}.", "Wait until it has ended, or name another folder."
        ) from None


def _parse(content: bytes) -> _Read:
    read = _Read()
    for line in content.splitlines(keepends=True):
        try:
            facts = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            break  # a crash cut it off
        read.whole += len(line)
        _take(read, facts)
    return read


def _take(read: _Read, facts: dict[str, object]) -> None:
    if "request" in facts:
        read.head = facts
        read.ours.update(map(str, _list(facts.get("ours"))))
    elif "file" in facts:
        read.ours.add(str(facts["file"]))
    elif "part" in facts:
        number, tally, credits = facts["part"], facts.get("tally"), facts.get("credits")
        if isinstance(number, int) and isinstance(tally, dict) and isinstance(credits, dict):
            read.next_part = number + 1
            read.tally += Tally(**tally)
            read.credits.update(credits)
    elif "end" in facts:
        read.ended = True


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
