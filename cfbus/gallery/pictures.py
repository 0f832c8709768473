"""The pictures of the gallery: read from the source, decoded in children, made small, kept for a while.

What it is for: `Pictures`, which gives a JPEG of an item.
What it must not know: captions, HTTP, HTML.

Invariants: what is given out was decoded and encoded anew, so that nothing of a stranger's file reaches a browser;
no more than `KEPT_BYTES` are kept and `AT_ONCE` made at once; an item is found by its shard and index alone.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from functools import partial
from typing import Final

from PIL import Image

from cfbus.decoding import CallError, DecodePool
from cfbus.errors import CfbusError
from cfbus.images import ImageError, Picture
from cfbus.sources.base import Item, ReadError, Source
from cfbus.store.folder import Store
from cfbus.store.listing import read_listing
from cfbus.store.manifest import Manifest

SIZES: Final = {"small": 320, "large": 1600}
KEPT_BYTES: Final = 64 << 20
AT_ONCE: Final = 8
_SECONDS: Final = 60.0


class NoPictureError(Exception):
    """There is none to show; the text says why."""


def smaller(most: int, picture: Picture) -> bytes:
    """A JPEG of a picture, in a child."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
    image.thumbnail((most, most))
    made = io.BytesIO()
    image.save(made, "JPEG", quality=85)
    return made.getvalue()


class Pictures:
    """Every method may be called from any thread."""

    def __init__(self, store: Store, source: Source | None, why_not: str = "") -> None:
        self._store, self._source, self._why_not = store, source, why_not
        self._pool = DecodePool(1) if source is not None else None
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self._kept: OrderedDict[tuple[str, int, str], bytes] = OrderedDict()
        self._bytes = 0
        self._shards: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        """End the children."""
        if self._pool is not None:
            self._pool.close()
        if self._source is not None:
            self._source.close()

    def jpeg(self, shard: str, index: int, size: str) -> bytes:
        """The item's picture in one of `SIZES`. Raises NoPictureError."""
        key = (shard, index, size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._room:
            made = self._made(shard, index, SIZES[size])
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made

    def _made(self, shard: str, index: int, most: int) -> bytes:
        if self._source is None or self._pool is None:
            raise NoPictureError(self._why_not)
        try:
            content = self._source.read(shard, self._item(shard, index))
            return self._pool.submit(content.data, partial(smaller, most)).result(_SECONDS)
        except ReadError as error:
            raise NoPictureError(error.detail) from None
        except ImageError as error:
            raise NoPictureError(str(error)) from None
        except (CfbusError, CallError, TimeoutError) as error:
            raise NoPictureError(f"The picture could not be made: {type(error).__name__}.") from None

    def _item(self, shard: str, index: int) -> Item:
        number, length = self._number(shard)
        if not 0 <= index < length:
            raise NoPictureError("There is no such item.")
        table = read_listing(self._store, number, index, index + 1)
        return Item(index, table.text("key").texts()[0], table.text("locator").raws()[0])

    def _number(self, shard: str) -> tuple[int, int]:
        with self._lock:
            if shard not in self._shards:
                manifest = Manifest.open(self._store)
                try:
                    self._shards = {row.name: (row.number, row.length) for row in manifest.shards()}
                finally:
                    manifest.close()
            found = self._shards.get(shard)
        if found is None:
            raise NoPictureError("There is no such shard.")
        return found
