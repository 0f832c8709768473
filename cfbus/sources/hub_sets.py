"""A dataset of the hub as tables and pictures, at the commit that it was listed at first.

What it is for: `HubSet`.
What it must not know: rows, columns, HTTP.

Invariants:
- What a branch or tag is, is asked once in the life of a store: later listings keep to the commit that is in the
  locators, until another revision is configured. A worker reads the commit that an item's locator names, of no other
  dataset than the one that its own configuration names.
- Only tables and pictures are asked for, by paths that lead nowhere else.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from cfbus.errors import SourceError
from cfbus.logs import display
from cfbus.sources.base import Known, LeftOut, ListedShard, ReadError, ReadReason, shard_name
from cfbus.sources.hub import Hub, HubAddress, HubError, HubFile, is_commit
from cfbus.sources.list_locators import RowLocator
from cfbus.sources.picture_sets import MAX_METADATA_BYTES, Metadata, inside, is_metadata
from cfbus.sources.sets import TableAt
from cfbus.sources.splits import matches, selected
from cfbus.sources.suffixes import is_picture
from cfbus.sources.table_files import HubBytes
from cfbus.sources.table_locators import Origin, PictureAt, unpack

TABLE_SUFFIX: Final = ".parquet"
MAX_PATH_BYTES: Final = 400
HUB_READERS: Final = 8


class HubSet:
    """Raises SourceError when the library is not here."""

    readers = HUB_READERS
    buffer_bytes = 4 << 20

    def __init__(
        self,
        address: HubAddress,
        label: str,
        *,
        config: str,
        split: str,
        shard_items: int,
        max_file_bytes: int,
        hub: Callable[[str], Hub] = Hub,
    ) -> None:
        self.shown = address.name
        self._address = address
        self._label = label
        self._config = config
        self._split = split
        self._shard_items = shard_items
        self._max_file_bytes = max_file_bytes
        self._hub = hub(address.name)
        self._seen: list[str] = []

    def close(self) -> None:
        """See `TableSet.close`."""
        self._hub.close()

    def problem(self) -> str:
        """See `TableSet.problem`."""
        try:
            self._hub.commit(self._address.revision)
        except HubError as error:
            return error.detail
        return ""

    # -- listing

    def tables(self, known: Known, left_out: LeftOut) -> Iterator[TableAt]:
        """See `TableSet.tables`."""
        origin, files = self._files(known)
        sizes = {file.path: file.size for file in files}
        self._seen = list(sizes)
        named = [path for path in sizes if path.lower().endswith(TABLE_SUFFIX)]
        for path in self._selected(named, origin) if named else ():
            if not self._can_be_told(path, left_out):
                continue
            opened = partial(HubBytes, sizes[path], partial(self._hub.read, path, origin.commit))
            yield TableAt(self._label, f"{self._label}/{path}", f"{self.shown}/{path}", origin, opened)

    def _files(self, known: Known) -> tuple[Origin, list[HubFile]]:
        try:
            origin = self._origin(known)
            found = self._hub.files(origin.commit)
        except HubError as error:
            raise error.for_listing() from None
        return origin, [file for file in found if matches(file.path, self._address.below) and not _hidden(file.path)]

    def _origin(self, known: Known) -> Origin:
        """What was listed already, unless another revision is wanted now."""
        revision = self._address.revision
        locator = known.first(f"{self._label}/") or known.first(shard_name(self._label, 0))
        try:
            listed = unpack(locator).origin if locator else Origin()
        except ValueError:
            listed = Origin()
        if listed.is_of(revision):
            return listed
        return Origin.of(revision if is_commit(revision) else self._hub.commit(revision), revision)

    def _selected(self, paths: list[str], origin: Origin) -> list[str]:
        try:
            card = self._hub.card(origin.commit)
        except HubError as error:
            raise error.for_listing() from None
        return selected(paths, card, self._config, self._split, self.shown)

    def pictures(self, known: Known, left_out: LeftOut) -> Iterator[ListedShard]:
        """See `TableSet.pictures`."""
        origin, files = self._files(known)
        paths = [file.path for file in files if is_picture(file.path.encode())]
        if not paths:
            raise SourceError(f"{self.shown}: no table with images was found, and no picture.", self.hint())
        metadata = self._metadata(files, origin, left_out)
        fresh = [
            path
            for path in self._selected(paths, origin)
            if not known.contains(self._label, path) and self._can_be_told(path, left_out)
        ]
        number = known.next_number(self._label)
        for at in range(0, len(fresh), self._shard_items):
            keys = fresh[at : at + self._shard_items]
            locators = [PictureAt(RowLocator(path, metadata.of(path)), origin).pack() for path in keys]
            yield ListedShard(shard_name(self._label, number), keys, locators)
            number += 1

    def _can_be_told(self, path: str, left_out: LeftOut) -> bool:
        """Whether a path can be a key; told where it cannot."""
        problem = _path_problem(path)
        if problem:
            left_out.add(display(f"{self.shown}/{path}", 1000), problem, grave=True)
        return not problem

    def _metadata(self, files: list[HubFile], origin: Origin, left_out: LeftOut) -> Metadata:
        metadata = Metadata()
        for file in files:
            if not is_metadata(file.path):
                continue
            try:
                said = self._hub.whole(file.path, origin.commit, MAX_METADATA_BYTES)
            except HubError as error:
                raise error.for_listing() from None
            with tempfile.TemporaryDirectory(prefix="cfbus-") as folder:
                copy = Path(folder) / posixpath.basename(file.path)
                copy.write_bytes(said)
                metadata.add(file.path, copy, left_out)
        return metadata

    def hint(self) -> str:
        """See `TableSet.hint`."""
        if self._address.revision.startswith("refs/"):
            return "Check the configuration and split."
        kinds = sorted({posixpath.splitext(path)[1] for path in self._seen})[:5]
        return (
            f"It has {len(self._seen)} files ({', '.join(kinds) or 'none'}) but no parquet and no pictures: try"
            " dataset.revision: refs/convert/parquet, where the hub keeps a copy of many datasets as parquet."
        )

    # -- reading

    def has(self, shard: str, origin: Origin) -> bool:
        """See `TableSet.has`."""
        mine = shard.startswith(f"{self._label}/") or shard.rpartition("-")[0] == self._label
        return mine and bool(origin.commit)

    def open(self, shard: str, origin: Origin, size: int) -> HubBytes:
        """See `TableSet.open`."""
        path = shard.removeprefix(f"{self._label}/")
        if not path.lower().endswith(TABLE_SUFFIX) or _path_problem(path):
            raise ReadError(ReadReason.OUTSIDE, "Its shard is no table of this dataset.", "worker")
        return HubBytes(size, partial(self._hub.read, path, self._commit(origin)))

    def _commit(self, origin: Origin) -> str:
        if not origin.commit or (is_commit(self._address.revision) and origin.commit != self._address.revision):
            raise ReadError(ReadReason.OUTSIDE, "It is of another commit than the one configured here.", "worker")
        return origin.commit

    def picture(self, shard: str, path: str, origin: Origin, *, beside: bool) -> bytes:
        """See `TableSet.picture`."""
        own = f"hf://datasets/{self._address.name}"
        if path.startswith((f"{own}@", f"{own}/")):
            path, beside = path.removeprefix(own).partition("/")[2], False
        folder = posixpath.dirname(shard.removeprefix(f"{self._label}/")) if beside else ""
        whole = inside(folder, path)
        if not is_picture(whole.encode()):
            raise ReadError(ReadReason.OUTSIDE, "The path in place of its image is not a picture's.", "item")
        return self._hub.whole(whole, self._commit(origin), self._max_file_bytes)


def _hidden(path: str) -> bool:
    return any(step.startswith(".") for step in path.split("/"))


def _path_problem(path: str) -> str:
    if len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES:
        return f"its name has more than {MAX_PATH_BYTES} bytes"
    if not path.isprintable():
        return "its name has characters that cannot be shown"
    return "its name leads out of the dataset" if _hidden(path) or "//" in path or path.startswith("/") else ""


def hub_address(address: str, revision: str) -> HubAddress:
    """The dataset that an address of ``dataset.paths`` names. Raises SourceError."""
    found = HubAddress.parse(address)
    if revision and found.revision and revision != found.revision:
        raise SourceError(f"{address}: dataset.revision says {revision}.", "Say the revision once.")
    return HubAddress(found.name, found.revision or revision, found.below)
