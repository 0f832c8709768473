"""Tars of samples as webdataset writes them: each tar a shard, each sample with an image an item.

What it is for: `TarSource`, the source of tars on disks and behind addresses, named by patterns.
What it must not know: the bus, leases, how the listing is stored, whether a member is a picture (only its name says).

Rules of the listing (the tar may come from anybody): it is read once, forwards, header by header
(`tar_members`), grouped like webdataset does (`tar_samples`). A tar that cannot be trusted to its end is left out as a
whole, with the reason; it is tried again at the next listing.

Rules of reading (the locator may come from somebody who lies):
- Only tars are opened that this host's own patterns stand for; a shard's name is looked up, never made into a path.
- A tar must be the one that was listed, by its size and its time or ETag, and so must be the header before each
  member; and it must not change while it is read. Nothing is mixed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Final, cast

from cfbus.config_downloads import Downloading
from cfbus.config_types import shown_url
from cfbus.errors import SourceError
from cfbus.sources.base import DISK_READERS, Content, Item, Known, LeftOut, ListedShard, ReadError, ReadReason, shown
from cfbus.sources.columns import MAX_COLUMN_BYTES, ColumnError, columns_of
from cfbus.sources.remote_blocks import SMALLEST_WINDOW, Forwards
from cfbus.sources.remote_files import RemoteFiles
from cfbus.sources.tar_files import OpenTar, Place, TarFiles, stamp_at, version_of
from cfbus.sources.tar_index import indexed
from cfbus.sources.tar_members import BLOCK, WALK_BYTES, BadTarError, Member, is_header_of, members_of
from cfbus.sources.tar_patterns import TarPatterns
from cfbus.sources.tar_samples import Locator, Part, Sampling

LOOK_AGAIN_SECONDS: Final = 10.0
"""A shard that is not known here may be in a tar that is new: so long after the last look, there is another one."""
LISTED_AT_ONCE: Final = 8
REMOTE_READERS: Final = 16


@dataclass(slots=True)
class _Listed:
    """What became of a tar: its shard, or that it is known already, and what was passed over."""

    shard: ListedShard | None = None
    known: bool = False
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True, slots=True)
class _Walk:
    """What a listing goes over: the members of one version of a tar, from the tar or from an index beside it."""

    stamp: bytes
    members: Iterator[Member]
    indexed: bool = False


class TarSource:
    """Lists and reads the tars that `patterns` stand for. Raises SourceError when none of them makes sense.

    ``image`` is the suffix of the image in a sample (`Sampling`); `max_file_bytes` bounds one image. ``remote`` reads
    what is behind addresses.
    """

    def __init__(
        self,
        patterns: Sequence[Path | str],
        *,
        image: str = "",
        follow_links: bool = False,
        max_file_bytes: int = 64 * 1024 * 1024,
        remote: RemoteFiles | None = None,
    ) -> None:
        self._remote = remote or RemoteFiles(Downloading())
        self._tars = TarPatterns(patterns, self._remote, follow_links=follow_links)
        self._image = image
        self._max_file_bytes = max_file_bytes
        self._files = TarFiles(self._remote)
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._looked = -LOOK_AGAIN_SECONDS
        self.left_out = LeftOut()
        self.readers = REMOTE_READERS if self._tars.remote else DISK_READERS

    def out_of_reach(self) -> str:
        """See `Source.out_of_reach`."""
        try:
            for _, place in self._tars.files(LeftOut()):
                if isinstance(place, str):
                    self._files.opened(place)  # what one server says, the next tar of it would say too
                elif not os.access(place, os.R_OK):
                    continue
                return ""
        except ReadError as error:
            return error.detail
        except SourceError as error:
            return error.message
        return f"{self._tars.shown}: no tar is here."

    def close(self) -> None:
        """See `Source.close`."""
        self._files.close()
        self._remote.close()

    # -- listing

    def shards(self, known: Known) -> Iterator[ListedShard]:
        """See `Source.shards`. Raises SourceError at the end when neither new nor known is anything."""
        self.left_out = LeftOut()
        anything = False
        for listed in self._listings(known):
            for thing in listed.left_out.things:
                self.left_out.add(thing.path, thing.reason, grave=thing.grave)
            anything |= listed.known or listed.shard is not None
            if listed.shard is not None:
                yield listed.shard
        if not anything:
            raise self._nothing()

    def _listings(self, known: Known) -> Iterator[_Listed]:
        """One of each tar, in order; remote ones are walked ahead, several at once."""
        ahead: deque[Callable[[], _Listed]] = deque()
        with ThreadPoolExecutor(LISTED_AT_ONCE, "list") as pool:
            try:
                for name, place in self._tars.files(self.left_out):
                    if known.lists(name):
                        ahead.append(partial(_Listed, known=True))
                    elif isinstance(place, Path):
                        ahead.append(partial(self._listed, name, place))
                    else:
                        ahead.append(pool.submit(self._listed, name, place).result)
                    if len(ahead) >= LISTED_AT_ONCE:
                        yield ahead.popleft()()
                while ahead:
                    yield ahead.popleft()()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _listed(self, name: str, place: Place) -> _Listed:
        listed = _Listed()
        where = shown_url(place) if isinstance(place, str) else shown(os.fsencode(place))
        sampling = Sampling(self._image)
        keys: list[str] = []
        locators: list[bytes] = []
        try:
            with self._walk(place) as walk:
                for key, locator in sampling.samples(walk.members):
                    keys.append(key)
                    locators.append(replace(locator, stamp=walk.stamp, indexed=walk.indexed).pack())
        except BadTarError as error:
            before = f" ({len(keys)} items were before that)" if keys else ""
            listed.left_out.add(where, f"{error}{before}", grave=True)
            return listed
        except ReadError as error:
            listed.left_out.add(
                where, f"cannot be read: {error.detail.removeprefix(f'{where}: ').rstrip('.')}", grave=True
            )
            return listed
        except OSError as error:
            said = "there is no such file" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
            listed.left_out.add(where, said, grave=True)
            return listed
        if sampling.without_image:
            listed.left_out.add(where, f"{sampling.without_image} of its samples have no image")
        if sampling.nameless:
            listed.left_out.add(where, f"{sampling.nameless} of its members have no key.suffix name")
        if not keys:
            listed.left_out.add(where, "no sample in it has an image", grave=True)
            return listed
        listed.shard = ListedShard(name, keys, locators)
        return listed

    @contextlib.contextmanager
    def _walk(self, place: Place) -> Iterator[_Walk]:
        """The members of a tar; at the end it must still be the same tar."""
        if isinstance(place, str):
            remote = self._remote.open(place, SMALLEST_WINDOW)
            known = indexed(self._remote, place, remote)
            walked = members_of(cast(IO[bytes], Forwards(remote))) if known is None else iter(known)
            yield _Walk(remote.stamp, walked, indexed=known is not None)
            return
        with place.open("rb", buffering=WALK_BYTES) as file:
            status = os.fstat(file.fileno())
            yield _Walk(stamp_at(status), members_of(file))
            if version_of(os.fstat(file.fileno())) != version_of(status):
                raise BadTarError("it was written to while it was listed")

    def _nothing(self) -> SourceError:
        left = "".join(f" {thing.path}: {thing.reason}." for thing in self.left_out.things[:3])
        return SourceError(
            f"{self._tars.shown}: no tar with images was found.{left}",
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
            return self._content(self._opened(place, locator), locator, item.key)
        except OSError as error:
            raise ReadError(
                ReadReason.UNREADABLE, f"The tar cannot be read: {error.strerror or error}.", "worker"
            ) from error
        except ReadError as error:
            if error.reason is ReadReason.CHANGED:
                self._files.forget(place)
            raise

    def _place(self, shard: str) -> Place:
        with self._lock:
            if shard not in self._places and time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
                with contextlib.suppress(SourceError):
                    self._places = dict(self._tars.files(LeftOut()))
                self._looked = time.monotonic()
            place = self._places.get(shard)
        if place is None:
            raise ReadError(ReadReason.SOURCE_MISSING, f"No tar here has the shard {shard}.", "worker")
        return place

    def _opened(self, place: Place, locator: Locator) -> OpenTar:
        try:
            tar = self._files.opened(place)
        except SourceError as error:
            raise ReadError(ReadReason.SOURCE_MISSING, str(error), "worker") from None
        if locator.stamp not in (b"", tar.stamp):
            raise _changed()
        return tar

    def _content(self, tar: OpenTar, locator: Locator, key: str) -> Content:
        image, *others = locator.parts
        if image.size > self._max_file_bytes:
            detail = f"It has {image.size} bytes; the limit is {self._max_file_bytes}."
            raise ReadError(ReadReason.TOO_LARGE, detail, "item")
        found = {
            part: _part(tar, part, key if locator.indexed else "")
            for part in sorted(locator.parts, key=_place)
            if _fits(part, image)
        }
        tar.check()
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


def _part(tar: OpenTar, part: Part, key: str) -> bytes:
    """A member. Its header must be the listed one; of a part from an index, with ``key``, it must be one like it."""
    data = tar.read(part.offset - BLOCK, BLOCK + part.size) if part.offset >= BLOCK else b""
    if len(data) != BLOCK + part.size:
        raise _changed()
    header = data[:BLOCK]
    if not (is_header_of(header, f"{key}.{part.suffix}", part.size) if key else zlib.crc32(header) == part.header_crc):
        raise _changed()
    return data[BLOCK:]


def _changed() -> ReadError:
    return ReadError(ReadReason.CHANGED, "The tar is not the one that was listed.", "worker")


def _fits(part: Part, image: Part) -> bool:
    return part is image or part.size <= MAX_COLUMN_BYTES


def _place(part: Part) -> int:
    return part.offset
