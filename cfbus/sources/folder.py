"""Pictures in folders: walks them into shards, reads single files back.

What it is for: `FolderSource`, the source of one or more folders ("roots").
What it must not know: the bus, leases, how the listing is stored, whether a file is a picture
(only what its name says).

Rules of the listing:
- Each folder's names come sorted as bytes, in runs of some ten thousand, folders entered where they stand: memory
  stays the same whatever a folder holds, and the first shard does not wait for the last name.
- Listed are regular files with a picture's suffix. Left out silently: names that begin with a dot
  and other suffixes. Left out and told in `left_out`: folders that cannot be read, cfbus
  stores (folders with a ``store.json``), links (unless followed), what only looks like a file.
- With `follow_links`, each folder is entered once, under the first path that leads to it: links
  can neither loop nor multiply.
- A key is the path below the root with ``/``. A path that is not UTF-8 is kept as locator; its
  key (`key_of`) begins with ``./``, as no plain one does, so it collides with none.
- A root's label is its base name with all but ``A-Z a-z 0-9 . _ -`` replaced by ``_``; a label
  taken by an earlier root gets ``.2``, ``.3`` and so on. Labels follow the order of the roots: who
  exchanges two roots of one name exchanges their labels.

Rules of reading (the locator may come from somebody who lies):
- What the listing would leave out by its name is not opened: hidden, ``..``, absolute, no picture.
- Without `follow_links` no link is followed on any step below the root, checked by the kernel
  while opening, so that nothing can be exchanged in between.
- A file that is gone is the item's fault only while its root is the folder that it was at start:
  an unmounted disk must not condemn a million items.
- A file whose size or time differs after it was read is not given out: its bytes may be of two versions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from cfbus.errors import SourceError
from cfbus.sources.base import (
    DISK_READERS,
    Content,
    Fault,
    Item,
    Known,
    LeftOut,
    ListedShard,
    ReadError,
    ReadReason,
    free_label,
    key_of,
    label_of,
    shard_name,
    shown,
)
from cfbus.sources.suffixes import PICTURES, is_picture, suffix

_STORE_FILE: Final = b"store.json"
_TARS_HINT: Final = "For tars of samples: --source webdataset, in a configuration dataset.source: webdataset."
_RUN_NAMES: Final = 32_768
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_READ_SIZE: Final = 1024 * 1024

_Identity: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Root:
    label: str
    shown: str
    path: bytes
    identity: _Identity


class FolderSource:
    """Lists and reads the pictures below `roots`. Raises SourceError when a root is no readable folder.

    `max_locator_bytes` bounds the keys and locators of one shard together, `max_file_bytes` one read.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        follow_links: bool = False,
        shard_items: int = 4096,
        max_locator_bytes: int = 200 * 1024,
        max_file_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._roots = {root.label: root for root in _checked(roots)}
        self._follow_links = follow_links
        self._shard_items = shard_items
        self._max_locator_bytes = max_locator_bytes
        self._max_file_bytes = max_file_bytes
        self.left_out = LeftOut()
        self.readers = DISK_READERS
        self._others: Counter[str] = Counter()

    def out_of_reach(self) -> str:
        """See `Source.out_of_reach`: whoever made this has seen all roots."""
        return ""

    def labels(self) -> dict[str, str]:
        """Which root, as text for people, each label stands for."""
        return {label: root.shown for label, root in self._roots.items()}

    # -- listing

    def shards(self, known: Known) -> Iterator[ListedShard]:
        """See `Source.shards`. Raises SourceError at the end when neither new nor known is anything."""
        self.left_out, self._others = LeftOut(), Counter()
        barren = []
        for root in self._roots.values():
            first = number = known.next_number(root.label)
            for keys, locators in self._batches(root, known if first else None):
                yield ListedShard(shard_name(root.label, number), keys, locators)
                number += 1
            if first == number == 0:
                barren.append(root)
        if len(barren) == len(self._roots):
            raise self._no_picture(barren)
        for root in barren:
            self._skip(root.path, "holds no picture", grave=True)

    def _batches(self, root: _Root, known: Known | None) -> Iterator[tuple[list[str], list[bytes]]]:
        keys: list[str] = []
        locators: list[bytes] = []
        size = 0
        for path in self._walk(root):
            key = key_of(path)
            if known is not None and known.contains(root.label, key):
                continue
            plain = key.encode()
            locator = b"" if plain == path else path
            more = len(plain) + len(locator)
            if more > self._max_locator_bytes:
                self._skip(path, "its path is too long", grave=True)
                continue
            if keys and (len(keys) == self._shard_items or size + more > self._max_locator_bytes):
                yield keys, locators
                keys, locators, size = [], [], 0
            keys.append(key)
            locators.append(locator)
            size += more
        if keys:
            yield keys, locators

    def _walk(self, root: _Root) -> Iterator[bytes]:
        """Paths below the root, in order. A stack of its own: depth is bounded by the file system."""
        top = root.path.rstrip(b"/")
        entered = {root.identity}
        stack = [(b"", self._names(top or b"/"))]
        while stack:
            below, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
            elif not name.endswith(b"/"):
                yield below + name
            elif not self._follow_links or self._first_visit(top + b"/" + below + name, entered):
                stack.append((below + name, self._names(top + b"/" + below + name)))

    def _names(self, folder: bytes) -> Iterator[bytes]:
        """Pictures and folders of one folder, sorted in runs; a folder's name ends with a slash.

        A folder of ten million pictures costs the memory of one run, and its first names come at once.
        """
        if os.path.lexists(os.path.join(folder, _STORE_FILE)):  # noqa: PTH118 - bytes
            self._skip(folder, "is a cfbus store")
            return
        try:
            with os.scandir(folder) as entries:
                wanted = filter(None, map(self._wanted, entries))
                while run := sorted(islice(wanted, _RUN_NAMES), key=_without_slash):
                    yield from run
        except OSError as error:
            self._skip(folder, f"cannot be read: {error.strerror}", grave=True)

    def _first_visit(self, folder: bytes, entered: set[_Identity]) -> bool:
        try:
            identity = _identity_at(folder)
        except OSError as error:
            self._skip(folder, f"cannot be read: {error.strerror}", grave=True)
            return False
        first = identity not in entered
        entered.add(identity)
        return first

    def _wanted(self, entry: os.DirEntry[bytes]) -> bytes:
        """The entry's name, with a slash if it is to be entered; empty if not wanted, and counted.

        Links apart, the kind comes with the folder's entry: no file is asked for its state.
        """
        if entry.name.startswith(b"."):
            return b""
        if entry.is_symlink() and not self._follow_links:
            self._skip(entry.path, "is a link")
            return b""
        if _kind(entry.is_dir):
            return entry.name + b"/"
        if not is_picture(entry.name):
            self._others[shown(suffix(entry.name))] += 1
            return b""
        if not _kind(entry.is_file):
            self._skip(entry.path, "is not a regular file")
            return b""
        return entry.name

    def _skip(self, path: bytes, reason: str, *, grave: bool = False) -> None:
        self.left_out.add(shown(path.rstrip(b"/") or b"/"), reason, grave=grave)

    def _no_picture(self, roots: Iterable[_Root]) -> SourceError:
        names = ", ".join(root.shown for root in roots)
        others = self._others.total()
        if not others and not self.left_out.count:
            return SourceError(f"{names}: the folder is empty.", "Name a folder that holds pictures.")
        kinds = ", ".join(f"{name or 'no suffix'} {count}" for name, count in self._others.most_common(5))
        seen = f"{others} other files ({kinds})" if others else "no other files"
        left = "".join(f" {skip.path} {skip.reason}." for skip in self.left_out.things[:3])
        out = f"; {self.left_out.count} things were left out" if self.left_out.count else ""
        return SourceError(
            f"{names}: no picture found, but {seen}{out}.{left}",
            _TARS_HINT if self._others[".tar"] else f"Pictures are known by their suffix: {' '.join(PICTURES)}.",
        )

    # -- reading

    def read(self, shard: str, item: Item) -> Content:
        """See `Source.read`. Faults are the item's, except where this host cannot reach the root."""
        root = self._roots.get(label_of(shard))
        if root is None:
            why = f"No folder here has the shard {shard}: none is called {label_of(shard)}."
            raise ReadError(ReadReason.SOURCE_MISSING, why, "worker")
        parts = _safe_parts(item)
        try:
            return Content(self._read(root, parts))
        except OSError as error:
            raise _read_error(error, root, item) from error

    def close(self) -> None:
        """See `Source.close`: no file stays open."""

    def _read(self, root: _Root, parts: list[bytes]) -> bytes:
        with contextlib.ExitStack() as opened:
            link = 0 if self._follow_links else os.O_NOFOLLOW
            folder = _opened(opened, root.path, os.O_DIRECTORY, None)
            for part in parts[:-1]:
                folder = _opened(opened, part, os.O_DIRECTORY | link, folder)
            file = _opened(opened, parts[-1], link, folder)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise ReadError(ReadReason.UNREADABLE, "It is not a regular file.", "item")
            data = self._contents(file, status.st_size)
            if _version(os.fstat(file)) != _version(status):
                raise ReadError(ReadReason.CHANGED, "The file was written to while it was read.", "network")
            return data

    def _contents(self, file: int, size: int) -> bytes:
        """All bytes up to the limit, whatever size the file claimed to have; none of one that claims too much."""
        chunks = []
        left = self._max_file_bytes + 1 if size <= self._max_file_bytes else 0
        while left and (chunk := os.read(file, min(left, _READ_SIZE))):
            chunks.append(chunk)
            left -= len(chunk)
        if not left:
            detail = f"The file has more than {self._max_file_bytes} bytes."
            raise ReadError(ReadReason.TOO_LARGE, detail, "item")
        return b"".join(chunks)


def _checked(roots: Sequence[Path]) -> Iterator[_Root]:
    taken: dict[str, _Root] = {}
    for given in roots:
        name = shown(os.fsencode(given))
        identity = _usable(given, name)
        root = _Root(free_label(given.resolve().name, taken), name, os.fsencode(given.resolve()), identity)
        for other in taken.values():
            if _within(root.path, other.path) or _within(other.path, root.path):
                raise SourceError(
                    f"{name} and {other.shown}: one folder holds the other, so pictures would count twice.",
                    "Name only the outer one.",
                )
        taken[root.label] = root
        yield root


def _usable(given: Path, name: str) -> _Identity:
    try:
        os.scandir(given).close()
        if (given / os.fsdecode(_STORE_FILE)).exists():
            raise SourceError(f"{name}: this is a cfbus store.", "Name the folder that holds the pictures.")
        return _identity(given.stat())
    except FileNotFoundError:
        raise SourceError(f"{name}: there is no such folder.", "Check the spelling.") from None
    except NotADirectoryError:
        raise SourceError(f"{name}: this is a file, not a folder.", _file_hint(given)) from None
    except OSError as error:
        raise SourceError(
            f"{name}: the folder cannot be read: {error.strerror}.", "Check who may read it (ls -ld)."
        ) from None


def _file_hint(given: Path) -> str:
    return _TARS_HINT if given.suffix in (".tar", ".tgz", ".gz") else "Name the folder it is in."


def _within(inner: bytes, outer: bytes) -> bool:
    return os.path.commonpath([inner, outer]) == outer


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _identity_at(path: bytes) -> _Identity:
    return _identity(Path(os.fsdecode(path)).stat())


def _kind(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except OSError:  # a link in a loop has no kind
        return False


def _without_slash(name: bytes) -> bytes:
    return name.rstrip(b"/")


def _safe_parts(item: Item) -> list[bytes]:
    """The steps to an item's file; refuses what this source would never have listed."""
    parts = (item.locator or item.key.encode("utf-8", "surrogatepass")).split(b"/")
    if any(not part or part.startswith(b".") or b"\0" in part for part in parts) or not is_picture(parts[-1]):
        raise ReadError(ReadReason.OUTSIDE, "Its path is not one that a listing of this folder has.", "item")
    return parts


def _opened(stack: contextlib.ExitStack, path: bytes, flags: int, folder: int | None) -> int:
    fd = os.open(path, _READ | flags, dir_fd=folder)
    stack.callback(os.close, fd)
    return fd


def _read_error(error: OSError, root: _Root, item: Item) -> ReadError:
    try:
        same = _identity_at(root.path) == root.identity
    except OSError:
        same = False
    if not same:
        detail = f"The folder {root.shown} is not there, or another one took its place."
        return ReadError(ReadReason.SOURCE_MISSING, detail, "worker")
    if error.errno == errno.ENOENT:
        return ReadError(ReadReason.VANISHED, "The file is gone.", "item")
    # ENOTDIR is also what O_DIRECTORY says to a link.
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ReadError(ReadReason.OUTSIDE, "A link or a file stands where its path leads through.", "item")
    fault: Fault = "item" if error.errno in (errno.ENXIO, errno.ENAMETOOLONG) else "worker"
    return ReadError(ReadReason.UNREADABLE, f"The file cannot be read: {error.strerror}.", fault)
