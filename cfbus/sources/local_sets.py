"""Tables and pictures on this disk, named by patterns, as datasets are laid out.

What it is for: `LocalSet`.
What it must not know: rows, columns.

Rules:
- Tables are named and found like tars (`patterns`). Configurations and splits are those of each root (`splits`); the
  card is the README of a folder that was named.
- Pictures, of folders without tables, are listed and read as `FolderSource` does: nothing outside a root, no links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cfbus.config_file import KeyPath, read_text
from cfbus.errors import ConfigError, SourceError
from cfbus.sources.base import (
    DISK_READERS,
    Fault,
    Item,
    Known,
    LeftOut,
    ListedShard,
    ReadError,
    ReadReason,
    shard_name,
    shown,
)
from cfbus.sources.folder import FolderSource
from cfbus.sources.list_locators import RowLocator
from cfbus.sources.patterns import Found, Patterns
from cfbus.sources.picture_sets import Metadata, inside, is_metadata
from cfbus.sources.sets import TableAt
from cfbus.sources.splits import in_split, selected
from cfbus.sources.table_files import DiskBytes
from cfbus.sources.table_locators import Origin, PictureAt

LOOK_AGAIN_SECONDS: Final = 10.0
TABLE_SUFFIXES: Final = (".parquet",)
_CARD: Final = "README.md"
_MAX_CARD_BYTES: Final = 1 << 20
_SAVED: Final = "state.json"


class LocalSet:
    """The tables, or else the pictures, that these paths stand for. Raises SourceError where they make no sense."""

    readers = DISK_READERS
    buffer_bytes = 1 << 20

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        config: str,
        split: str,
        shard_items: int,
        max_file_bytes: int,
        follow_links: bool,
    ) -> None:
        self._paths = list(paths)
        self._patterns = Patterns(self._paths, follow_links=follow_links, suffixes=TABLE_SUFFIXES)
        self._config = config
        self._split = split
        self._shard_items = shard_items
        self._max_file_bytes = max_file_bytes
        self._follow_links = follow_links
        self._lock = threading.Lock()
        self._found: dict[str, Found] = {}
        self._looked = -LOOK_AGAIN_SECONDS
        self._folders: dict[str, FolderSource] = {}

    @property
    def shown(self) -> str:
        """The paths for people."""
        return self._patterns.shown

    def close(self) -> None:
        """See `TableSet.close`: the folders keep nothing open."""

    def problem(self) -> str:
        """See `TableSet.problem`."""
        if any(os.access(path, os.R_OK) for path in self._paths):
            return ""
        here = any(os.access(found.path, os.R_OK) for found in self._patterns.files(LeftOut()))
        return "" if here else f"{self.shown}: no table is here."

    def hint(self) -> str:
        """See `TableSet.hint`."""
        if self._saved():
            return "It was written by save_to_disk of datasets: write it with to_parquet instead."
        return "Name parquet files (data/*.parquet), or a folder that holds parquet or pictures."

    def _saved(self) -> bool:
        return any((path / _SAVED).is_file() for path in self._paths)

    # -- listing

    def tables(self, known: Known, left_out: LeftOut) -> Iterator[TableAt]:
        """See `TableSet.tables`."""
        by_root: dict[str, list[Found]] = {}
        for found in self._patterns.files(left_out):
            by_root.setdefault(found.name.partition("/")[0], []).append(found)
        for label, files in by_root.items():
            paths = {found.name.partition("/")[2]: found for found in files}
            root = _root(files[0])
            for path in selected(list(paths), self._card(root), self._config, self._split, shown(os.fsencode(root))):
                found = paths[path]
                with self._lock:
                    self._found[found.name] = found
                yield TableAt(label, found.name, shown(os.fsencode(found.path)), Origin(), _opener(found.path))

    def _card(self, root: Path) -> Mapping[str, Any]:
        """What the head of a named folder's README says; nothing where there is none."""
        if root not in self._paths:
            return {}
        try:
            with (root / _CARD).open("rb") as file:
                text = file.read(_MAX_CARD_BYTES).decode("utf-8", "replace")
        except OSError:
            return {}
        head = text.partition("---\n")[2].partition("\n---")[0] if text.startswith("---\n") else ""
        try:
            return read_text(head, root / _CARD, _Plain()).values if head.strip() else {}
        except ConfigError:
            return {}  # the hub is not stricter

    def pictures(self, known: Known, left_out: LeftOut) -> Iterator[ListedShard]:
        """See `TableSet.pictures`."""
        if not all(path.is_dir() for path in self._paths) or self._saved():
            raise SourceError(f"{self.shown}: no table with images is here.", self.hint())
        source = FolderSource(self._paths, follow_links=self._follow_links, shard_items=self._shard_items)
        anything = any(known.next_number(label) for label in source.labels())
        metadata = {label: self._metadata(Path(root), left_out) for label, root in source.labels().items()}
        try:
            for shard in source.shards(known):
                label = shard.name.rpartition("-")[0]
                keys = [key for key in shard.keys if in_split(key, self._split) and self._told(key, left_out)]
                locators = [PictureAt(RowLocator(key, metadata[label].of(key)), Origin()).pack() for key in keys]
                if keys:
                    anything = True
                    yield ListedShard(shard.name, keys, locators)
            if not anything:
                raise SourceError(f"{self.shown}: it has no split {self._split}.", "Say another dataset.split.")
        finally:
            for thing in source.left_out.things:
                left_out.add(thing.path, thing.reason, grave=thing.grave)

    def _told(self, key: str, left_out: LeftOut) -> bool:
        """Whether a picture can be listed; told where it cannot."""
        odd = key.startswith("./")
        if odd:
            left_out.add(key, "its name is not UTF-8, which the pictures of a dataset need", grave=True)
        return not odd

    def _metadata(self, root: Path, left_out: LeftOut) -> Metadata:
        metadata = Metadata()
        for below, folders, names in os.walk(root, followlinks=self._follow_links):
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            for name in filter(is_metadata, names):
                file = Path(below) / name
                if file.is_file() and (self._follow_links or not file.is_symlink()):
                    metadata.add(file.relative_to(root).as_posix(), file, left_out)
        return metadata

    # -- reading

    def has(self, shard: str, origin: Origin) -> bool:
        """See `TableSet.has`: what is of no dataset of the hub is looked for here."""
        return not origin.commit

    def open(self, shard: str, origin: Origin, size: int) -> DiskBytes:
        """See `TableSet.open`."""
        try:
            return DiskBytes(self._table(shard).path)
        except OSError as error:
            raise _read_error(error) from None

    def _table(self, shard: str) -> Found:
        with self._lock:
            if shard not in self._found and time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
                with contextlib.suppress(SourceError):
                    self._found = {found.name: found for found in self._patterns.files(LeftOut())}
                self._looked = time.monotonic()
            found = self._found.get(shard)
        if found is None:
            raise ReadError(ReadReason.SOURCE_MISSING, f"No table here has the shard {shard}.", "worker")
        return found

    def picture(self, shard: str, path: str, origin: Origin, *, beside: bool) -> bytes:
        """See `TableSet.picture`."""
        folders = self._folders_of(shard, beside=beside)
        label = next(iter(folders.labels())) if beside else shard.rpartition("-")[0]
        within = inside(posixpath.dirname(shard.partition("/")[2]) if beside else "", path)
        return folders.read(shard_name(label, 0), Item(0, path, within.encode())).data

    def _folders_of(self, shard: str, *, beside: bool) -> FolderSource:
        """The root of a table, or all the folders that were named."""
        root = str(_root(self._table(shard))) if beside else ""
        with self._lock:
            if root not in self._folders:
                paths = [Path(root)] if beside else self._paths
                try:
                    self._folders[root] = FolderSource(
                        paths, follow_links=self._follow_links, max_file_bytes=self._max_file_bytes
                    )
                except SourceError as error:
                    raise ReadError(ReadReason.SOURCE_MISSING, error.message, "worker") from None
            return self._folders[root]


def _root(found: Found) -> Path:
    """The folder below which a file has its name."""
    depth = found.name.count("/")
    return found.path.parents[depth - 1]


def _opener(path: Path) -> Any:  # noqa: ANN401 - a bound constructor
    return lambda: DiskBytes(path)


def _read_error(error: OSError) -> ReadError:
    if error.errno == errno.ENOENT:
        return ReadError(ReadReason.SOURCE_MISSING, "The table is not here.", "worker")
    fault: Fault = "worker"
    return ReadError(ReadReason.UNREADABLE, f"The table cannot be read: {error.strerror or error}.", fault)


class _Plain:
    """A card's values as YAML has them. See ``config_file.Schema``."""

    def is_text(self, path: KeyPath) -> bool:
        return path[-1:] in (("config_name",), ("split",), ("path",), ("data_files",))

    def is_path(self, _path: KeyPath) -> bool:
        return False

    def has_short_form(self, _path: KeyPath) -> bool:
        return False

    def known_paths(self) -> list[KeyPath]:
        return []
