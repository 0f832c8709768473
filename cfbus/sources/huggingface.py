"""Hugging Face datasets: parquet files with images, on this machine or on the hub.

What it is for: `HuggingFaceSource`. Each parquet file is a shard (a very long one several), each row an item.
What it must not know: the bus, leases, how the listing is stored, the hub's protocol (`hub` does).

Rules of the listing: of each file the footer is read, and where keys are asked for, that column; a file without the
column of images is left out as a whole. Of the hub, the commit is part of every locator: what was listed
is what is read, whatever its branch is by then.

Rules of reading (the locator may come from somebody who lies): only files are opened that this host's own configuration
names; a file that is not the one that was listed is noticed, and nothing is mixed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final, Protocol

from cfbus.config_downloads import Downloading
from cfbus.errors import SourceError
from cfbus.sources.base import (
    DISK_READERS,
    Content,
    Item,
    Known,
    LeftOut,
    ListedShard,
    ReadError,
    ReadReason,
    shard_name,
    shown,
)
from cfbus.sources.downloads import Downloads
from cfbus.sources.parquet_rows import BadParquetError, ParquetRows, Picture
from cfbus.sources.patterns import Patterns

LOOK_AGAIN_SECONDS: Final = 10.0
MOST_ROWS: Final = 1_000_000
"""A longer file makes several shards, cut at row groups."""
KEPT_OPEN: Final = 4
HUB_READERS: Final = 8
MAX_FILE_BYTES: Final = 64 << 20
_LOCATOR: Final = struct.Struct("<II20s")  # row group, row in it, which file this is


class Place(Protocol):
    """A parquet file that a configuration names."""

    name: str
    where: str

    def identity(self) -> bytes:
        """20 bytes that are others for another file. Raises OSError."""

    def is_same(self, identity: bytes) -> bool:
        """Whether what is opened now is what was listed. Raises OSError."""

    def open(self, identity: bytes) -> str | IO[bytes]:
        """For reading. Raises OSError."""

    def beside(self, path: str) -> bytes:
        """A file that a row names. Raises OSError, ReadError."""


class LocalPlace:
    """A parquet file on this machine."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.where = shown(os.fsencode(path))
        self._path = path

    def identity(self) -> bytes:
        """Of size and time of change."""
        status = self._path.stat()
        return blake2b(f"{status.st_size}:{status.st_mtime_ns}".encode(), digest_size=20).digest()

    def is_same(self, identity: bytes) -> bool:
        """By size and time of change."""
        return self.identity() == identity

    def open(self, identity: bytes) -> str:
        """Its path."""
        return str(self._path)

    def beside(self, path: str) -> bytes:
        """A picture in the folder of the file, or in folders below; nowhere else."""
        folder = self._path.parent.resolve()
        wanted = (folder / path).resolve()
        if not wanted.is_relative_to(folder):
            raise ReadError(ReadReason.OUTSIDE, "Its row names a file outside of the dataset's folder.", "item")
        with wanted.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ReadError(ReadReason.TOO_LARGE, f"It has more than {MAX_FILE_BYTES} bytes.", "item")
        return data


class Places(Protocol):
    """The files that a configuration stands for, now."""

    shown: str

    def files(self, left_out: LeftOut) -> Iterator[Place]:
        """Each once. Raises SourceError."""

    def named(self, shard: str) -> Place | None:
        """The file of a shard, where its name alone says which it is."""


class LocalPlaces:
    """Files by patterns; see `cfbus.sources.patterns`."""

    def __init__(self, patterns: Sequence[Path], *, follow_links: bool, split: str = "") -> None:
        self._patterns = Patterns(patterns, follow_links=follow_links, suffixes=(".parquet",))
        self._split = re.compile(rf"(?:^|[/_.\- ]){re.escape(split)}(?:$|[/_.\- ])") if split else None
        self.shown = self._patterns.shown

    def named(self, shard: str) -> Place | None:
        """See `Places.named`: a path below a root, which has to be looked for."""
        return None

    def files(self, left_out: LeftOut) -> Iterator[Place]:
        """See `Places.files`."""
        for found in self._patterns.files(left_out):
            below = found.name.partition("/")[2]  # what the root is called says nothing
            if self._split is None or self._split.search(below):
                yield LocalPlace(found.name, found.path)


class HuggingFaceSource:
    """Lists and reads rows. ``image``, ``url`` and ``key`` name columns, or are empty."""

    def __init__(
        self,
        places: Sequence[Places],
        downloads: Downloading,
        *,
        image: str = "",
        url: str = "",
        key: str = "",
        remote: bool = False,
    ) -> None:
        self._places = places
        self._settings = downloads
        self._image, self._url, self._key = image, url, key
        self.readers = HUB_READERS if remote else DISK_READERS
        self.left_out = LeftOut()
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, bytes], ParquetRows] = OrderedDict()
        self._known: dict[str, Place] = {}
        self._looked = -LOOK_AGAIN_SECONDS
        self._downloads: Downloads | None = None

    def out_of_reach(self) -> str:
        """See `Source.out_of_reach`."""
        with contextlib.suppress(SourceError):
            if any(True for places in self._places for _ in places.files(LeftOut())):
                return ""
        return f"{', '.join(places.shown for places in self._places)}: no parquet file can be reached."

    def close(self) -> None:
        """See `Source.close`."""
        with self._lock:
            for rows in self._open.values():
                rows.close()
            self._open.clear()
        if self._downloads is not None:
            self._downloads.close()

    # -- listing

    def shards(self, known: Known) -> Iterator[ListedShard]:
        """See `Source.shards`. Raises SourceError at the end when neither new nor known is anything."""
        self.left_out = LeftOut()
        anything = False
        for place in (place for places in self._places for place in places.files(self.left_out)):
            if known.lists(place.name) or known.next_number(place.name):
                anything = True
                continue
            for shard in self._listed(place):
                anything = True
                yield shard
        if not anything:
            named = ", ".join(places.shown for places in self._places)
            left = "".join(f" {thing.path} {thing.reason}." for thing in self.left_out.things[:3])
            raise SourceError(
                f"{named}: no parquet file with images was found.{left}",
                "Name parquet files, a folder that holds some, or a dataset of the hub (hf://NAME/SET).",
            )

    def _listed(self, place: Place) -> Iterator[ListedShard]:
        try:
            identity = place.identity()
            rows = ParquetRows(place.open(identity), self._image, self._url)
        except BadParquetError as error:
            self.left_out.add(place.where, str(error), grave=True)
            return
        except OSError as error:
            said = "there is no such file" if error.errno == errno.ENOENT else f"cannot be read: {error}"
            self.left_out.add(place.where, said, grave=True)
            return
        with contextlib.closing(rows):
            try:
                yield from self._sliced(place, identity, rows)
            except BadParquetError as error:
                self.left_out.add(place.where, str(error), grave=True)

    def _sliced(self, place: Place, identity: bytes, rows: ParquetRows) -> Iterator[ListedShard]:
        lengths = rows.group_lengths
        if not sum(lengths):
            self.left_out.add(place.where, "it has no rows")
            return
        width = max(len(str(sum(lengths) - 1)), 6)
        keys: list[str] = []
        locators: list[bytes] = []
        number = first = 0
        whole = sum(lengths) <= MOST_ROWS
        for group, length in enumerate(lengths):
            if keys and len(keys) + length > MOST_ROWS:
                yield ListedShard(shard_name(place.name, number), keys, locators)
                keys, locators, number = [], [], number + 1
            named = rows.keys(group, self._key) if self._key else []
            keys += [named[row] if self._key and named[row] else f"{first + row:0{width}d}" for row in range(length)]
            locators += [_LOCATOR.pack(group, row, identity) for row in range(length)]
            first += length
        yield ListedShard(place.name if whole else shard_name(place.name, number), keys, locators)

    # -- reading

    def read(self, shard: str, item: Item) -> Content:
        """See `Source.read`."""
        try:
            group, row, identity = _LOCATOR.unpack(item.locator)
        except struct.error:
            raise ReadError(ReadReason.OUTSIDE, "Its locator is not one of a parquet file's row.", "worker") from None
        place = self._place(shard)
        try:
            picture, columns = self._rows(place, identity).row(group, row)
            return Content(self._bytes(place, picture), columns)
        except BadParquetError as error:
            raise ReadError(ReadReason.CHANGED, f"The file is another one now: {error}.", "worker") from None
        except OSError as error:
            fault = "item" if error.errno == errno.ENOENT and picture_path(error) else "network"
            detail = f"It cannot be read: {error.strerror or error}."
            raise ReadError(ReadReason.UNREADABLE, detail, fault) from error  # type: ignore[arg-type]

    def _bytes(self, place: Place, picture: Picture) -> bytes:
        if picture.url:
            with self._lock:
                if self._downloads is None:
                    self._downloads = Downloads(self._settings)
            return self._downloads.get(picture.url)
        if picture.path:
            return place.beside(picture.path)
        if len(picture.data) > MAX_FILE_BYTES:
            detail = f"It has {len(picture.data)} bytes; the limit is {MAX_FILE_BYTES}."
            raise ReadError(ReadReason.TOO_LARGE, detail, "item")
        return picture.data

    def _rows(self, place: Place, identity: bytes) -> ParquetRows:
        if not place.is_same(identity):
            raise ReadError(ReadReason.CHANGED, "The file is not the one that was listed.", "worker")
        with self._lock:
            found = self._open.get((place.name, identity))
            if found is None:
                found = ParquetRows(place.open(identity), self._image, self._url)
                self._open[place.name, identity] = found
            self._open.move_to_end((place.name, identity))
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)  # a thread that still reads from it keeps it
        return found

    def _place(self, shard: str) -> Place:
        for places in self._places:
            named = places.named(shard if shard.endswith(".parquet") else _base(shard))
            if named is not None:
                return named
        with self._lock:
            place = self._known.get(shard) or self._known.get(_base(shard))
            if place is None and time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
                self._looked = time.monotonic()
                with contextlib.suppress(SourceError):
                    found = (place for places in self._places for place in places.files(LeftOut()))
                    self._known = {each.name: each for each in found}
                place = self._known.get(shard) or self._known.get(_base(shard))
        if place is None:
            raise ReadError(ReadReason.SOURCE_MISSING, f"No file here has the shard {shard}.", "worker")
        return place


def picture_path(error: OSError) -> bool:
    """Whether it is a picture beside the table that is missing, and not the table."""
    return not str(error.filename or "").endswith(".parquet")


def _base(shard: str) -> str:
    """The file's name in the name of one of several shards of it."""
    base, dash, number = shard.rpartition("-")
    return base if dash and number.isdecimal() else shard
