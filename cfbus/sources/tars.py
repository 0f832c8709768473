"""Tars of samples as webdataset writes them: each tar a shard, each sample with an image an item.

What it is for: `TarSource`, the source of local tars, named by patterns.
What it must not know: the bus, leases, how the listing is stored, whether a member is a picture (only its name says).

Rules of the listing (the tar may come from anybody): it is read once, forwards, header by header
(`tar_members`), grouped like webdataset does (`tar_samples`). A tar that cannot be trusted to its end is left out as a
whole, with the reason; it is tried again at the next listing.

Rules of reading (the locator may come from somebody who lies):
- Only tars are opened that this host's own patterns stand for; a shard's name is looked up, never made into a path.
- The header before each member must be the one that was listed: a tar that was replaced is noticed, nothing is mixed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from cfbus.errors import SourceError
from cfbus.sources.base import DISK_READERS, Content, Item, Known, LeftOut, ListedShard, ReadError, ReadReason, shown
from cfbus.sources.columns import MAX_COLUMN_BYTES, ColumnError, columns_of
from cfbus.sources.patterns import Patterns
from cfbus.sources.remote_files import RemoteChangedError, RemoteError, RemoteFiles, shown_address
from cfbus.sources.remote_patterns import RemotePatterns
from cfbus.sources.tar_files import TarFiles
from cfbus.sources.tar_members import BLOCK, BadTarError, Member, members, members_of
from cfbus.sources.tar_samples import Locator, Part, Sampling

Place: TypeAlias = Path | str
"""Where a tar is: on this machine, or behind an address."""
REMOTE_READERS: Final = 16
LOOK_AGAIN_SECONDS: Final = 10.0
"""A shard that is not known here may be in a tar that is new: so long after the last look, there is another one."""


class TarSource:
    """Lists and reads the tars that `patterns` stand for. Raises SourceError when none of them makes sense.

    ``image`` is the suffix of the image in a sample (`Sampling`); `max_file_bytes` bounds one image.
    """

    def __init__(
        self,
        patterns: Sequence[Path],
        addresses: Sequence[str] = (),
        *,
        image: str = "",
        follow_links: bool = False,
        max_file_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._patterns = Patterns(patterns, follow_links=follow_links)
        self._remote = RemoteFiles()
        self._addresses = RemotePatterns(addresses, self._remote)
        self._image = image
        self._max_file_bytes = max_file_bytes
        self._files = TarFiles()
        self._lock = threading.Lock()
        self._paths: dict[str, Place] = {}
        self._looked = -LOOK_AGAIN_SECONDS
        self.left_out = LeftOut()
        self.readers = REMOTE_READERS if addresses else DISK_READERS

    def out_of_reach(self) -> str:
        """See `Source.out_of_reach`."""
        try:
            here = any(self._is_here(place) for _, place in self._places(LeftOut()))
        except SourceError as error:
            return error.message
        return "" if here else f"{self._shown}: no tar is here."

    def _is_here(self, place: Place) -> bool:
        if isinstance(place, Path):
            return os.access(place, os.R_OK)
        with contextlib.suppress(OSError):
            return self._remote.size(place) >= 0
        return False

    @property
    def _shown(self) -> str:
        return ", ".join(each.shown for each in (self._patterns, self._addresses) if each.shown)

    def _places(self, left_out: LeftOut) -> Iterator[tuple[str, Place]]:
        yield from ((found.name, found.path) for found in self._patterns.files(left_out))
        yield from ((found.name, found.address) for found in self._addresses.files(left_out))

    def close(self) -> None:
        """See `Source.close`."""
        self._files.close()

    # -- listing

    def shards(self, known: Known) -> Iterator[ListedShard]:
        """See `Source.shards`. Raises SourceError at the end when neither new nor known is anything."""
        self.left_out = LeftOut()
        anything = False
        for name, place in self._places(self.left_out):
            if known.lists(name):
                anything = True
                continue
            shard = self._listed(name, place)
            if shard is not None:
                anything = True
                yield shard
        if not anything:
            raise self._nothing()

    def _members(self, place: Place) -> Iterator[Member]:
        if isinstance(place, Path):
            yield from members(place)
        else:
            with self._remote.open(place) as file:
                yield from members_of(file, packed=False)

    def _listed(self, name: str, place: Place) -> ListedShard | None:
        sampling = Sampling(self._image)
        keys: list[str] = []
        locators: list[bytes] = []
        where = shown(os.fsencode(place)) if isinstance(place, Path) else shown_address(place)
        try:
            for key, locator in sampling.samples(self._members(place)):
                keys.append(key)
                locators.append(locator.pack())
        except BadTarError as error:
            before = f" ({len(keys)} items were before that)" if keys else ""
            self.left_out.add(where, f"{error}{before}", grave=True)
            return None
        except RemoteError as error:
            self.left_out.add(where, f"cannot be listed: {error}", grave=True)
            return None
        except OSError as error:
            said = "there is no such file" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
            self.left_out.add(where, said, grave=True)
            return None
        if sampling.without_image:
            self.left_out.add(where, f"{sampling.without_image} of its samples have no image")
        if sampling.nameless:
            self.left_out.add(where, f"{sampling.nameless} of its members have no key.suffix name")
        if not keys:
            self.left_out.add(where, "no sample in it has an image", grave=True)
            return None
        return ListedShard(name, keys, locators)

    def _nothing(self) -> SourceError:
        left = "".join(f" {thing.path}: {thing.reason}." for thing in self.left_out.things[:3])
        return SourceError(
            f"{self._shown}: no tar with images was found.{left}",
            "Name tars (shards/*.tar, 'shard-{0000..0099}.tar') or a folder that holds some.",
        )

    # -- reading

    def read(self, shard: str, item: Item) -> Content:
        """See `Source.read`."""
        place = self._place(shard)
        try:
            locator = Locator.unpack(item.locator)
        except ValueError:
            raise ReadError(ReadReason.OUTSIDE, "Its locator is not one of a tar's item.", "worker") from None
        if locator.reason is not None:
            raise ReadError(locator.reason, locator.detail, "item")
        try:
            return self._content(place, locator)
        except RemoteChangedError as error:
            assert isinstance(place, str)
            self._remote.forget(place)  # as it is now, its headers tell whether it is the one that was listed
            raise ReadError(ReadReason.CHANGED, f"{error}.", "network") from error
        except RemoteError as error:
            raise ReadError(ReadReason.UNREADABLE, f"{error}.", "network") from error
        except OSError as error:
            raise ReadError(
                ReadReason.UNREADABLE, f"The tar cannot be read: {error.strerror or error}.", "worker"
            ) from error

    def _place(self, shard: str) -> Place:
        with self._lock:
            if shard not in self._paths and time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
                with contextlib.suppress(SourceError):
                    self._paths = dict(self._places(LeftOut()))
                self._looked = time.monotonic()
            place = self._paths.get(shard)
        if place is None:
            raise ReadError(ReadReason.SOURCE_MISSING, f"No tar here has the shard {shard}.", "worker")
        return place

    def _content(self, place: Place, locator: Locator) -> Content:
        image, *others = locator.parts
        if image.size > self._max_file_bytes:
            detail = f"It has {image.size} bytes; the limit is {self._max_file_bytes}."
            raise ReadError(ReadReason.TOO_LARGE, detail, "item")
        found = {part: self._part(place, part) for part in sorted(locator.parts, key=_place) if _fits(part, image)}
        columns: dict[str, object] = {}
        for part in others:
            if part not in found:
                detail = f"Its .{part.suffix} has {part.size} bytes; the limit is {MAX_COLUMN_BYTES}."
                raise ReadError(ReadReason.BAD_COLUMN, detail, "item")
            try:
                columns |= columns_of(part.suffix, found[part])
            except ColumnError as error:
                raise ReadError(ReadReason.BAD_COLUMN, str(error), "item") from None
        return Content(found[image], columns)

    def _part(self, place: Place, part: Part) -> bytes:
        data = self._bytes(place, part.offset - BLOCK, BLOCK + part.size) if part.offset >= BLOCK else b""
        if len(data) != BLOCK + part.size or zlib.crc32(data[:BLOCK]) != part.header_crc:
            raise ReadError(ReadReason.CHANGED, "The tar is not the one that was listed.", "worker")
        return data[BLOCK:]

    def _bytes(self, place: Place, offset: int, size: int) -> bytes:
        if isinstance(place, Path):
            return self._files.read(place, offset, size)
        return self._remote.read(place, offset, size)


def _fits(part: Part, image: Part) -> bool:
    return part is image or part.size <= MAX_COLUMN_BYTES


def _place(part: Part) -> int:
    return part.offset
