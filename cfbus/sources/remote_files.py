"""Files behind addresses (http, https, s3), read by ranges: what is read is one version of the file, or an error.

What it is for: `RemoteFiles.open`, a file with its size and version, and `RemoteFile.read`.
What it must not know: tars, listings, caches. How a server is asked is known by `http_ranges` and `s3_ranges`, each
imported when an address needs it.

Invariants:
- A read gives exactly the bytes that were asked for, up to the file's end as it was when it was opened. An answer that
  is cut off is asked for again, a few times, and is then an error; it is never taken for an end.
- Every answer is of the version (ETag, else date) and size that the file was opened with, or the error is `changed`.
- No request waits for ever: it ends after some silence, or when all of it comes more slowly than `MIN_RATE`.
- What an address may hold as a secret (user, password, query) is in no text: see `shown_url`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from cfbus.config_downloads import Downloading
from cfbus.config_types import shown_url
from cfbus.errors import SourceError
from cfbus.logs import display
from cfbus.sources.addresses import PassingError
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.downloads import pause_before

MIN_RATE: Final = 64 << 10
"""Bytes a second. A request may take its time at this speed, and the seconds of silence that are allowed."""
SCHEMES: Final = ("http", "https", "s3")
MAX_WAIT: Final = 60.0
"""A server that wants to be asked again later than this is not waited for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An answer: bytes of a file, the size of all of it, and which version it was; "" where nothing says so."""

    data: bytes
    total: int
    version: str


class Ranges(Protocol):
    """How servers of one kind are asked."""

    def get(self, address: str, offset: int, size: int, version: str) -> Piece:
        """One request, for one range. ``version`` is what it must still be, "" for any. Raises ReadError, and
        PassingError where the next attempt may go better."""

    def names(self, prefix: str) -> Iterator[str]:
        """The addresses that begin with ``prefix``, sorted. Raises ReadError."""

    def close(self) -> None: ...


class RemoteFile:
    """One version of a file. Safe to read from several threads."""

    def __init__(self, files: RemoteFiles, address: str, first: Piece) -> None:
        self._files = files
        self._address = address
        self.size = first.total
        self.version = first.version
        self.first = first.data

    @property
    def stamp(self) -> bytes:
        """Eight bytes that differ when size or version do."""
        return stamp_of(self.size, self.version)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer only where the file ends. Raises ReadError."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if offset + size <= len(self.first):
            return self.first[offset : offset + size]
        piece = self._files.ask(self._address, offset, size, self.version)
        if piece.total != self.size or len(piece.data) != size:
            raise changed(self._address)
        return piece.data


class RemoteFiles:
    """Opens files, from any thread. ``ranges`` replaces how servers of a scheme are asked."""

    def __init__(self, settings: Downloading, ranges: dict[str, Ranges] | None = None) -> None:
        self._settings = settings
        self._ranges = dict(ranges or {})
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def open(self, address: str, first: int = 1) -> RemoteFile:
        """The file as it is now; its ``first`` bytes come with it. Raises ReadError, and SourceError where the
        library for the scheme is missing."""
        return RemoteFile(self, address, self.ask(address, 0, first, ""))

    def names(self, prefix: str) -> Iterator[str]:
        """See `Ranges.names`."""
        return self._of(prefix).names(prefix)

    def ask(self, address: str, offset: int, size: int, version: str) -> Piece:
        """One range, asked for as often as allowed. Raises ReadError."""
        ranges = self._of(address)
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return ranges.get(address, offset, size, version)
            except PassingError as error:
                pause = error.wait if error.wait is not None else pause_before(attempt)
                if attempt == self._settings.attempts or pause > MAX_WAIT or self._closed.wait(pause):
                    raise ReadError(error.reason, error.detail, error.fault) from None
        raise AssertionError("no attempt")

    def _of(self, address: str) -> Ranges:
        scheme = address.partition("://")[0].lower()
        with self._lock:
            if self._closed.is_set():
                raise ReadError(ReadReason.SOURCE_MISSING, "The source was closed.", "worker")
            if scheme not in self._ranges:
                self._ranges[scheme] = _ranges_for(scheme, self._settings)
            return self._ranges[scheme]

    def close(self) -> None:
        """Let go of all connections; who waits to ask again, waits no more."""
        self._closed.set()
        with self._lock:
            for ranges in self._ranges.values():
                ranges.close()


def stamp_of(size: int, version: str) -> bytes:
    """Eight bytes for a size and a version."""
    return hashlib.blake2b(f"{size} {version}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def changed(address: str) -> ReadError:
    """The error where an answer is of another version."""
    return ReadError(ReadReason.CHANGED, f"{shown_url(address)} is not what it was when it was listed.", "item")


def deadline(settings: Downloading, size: int) -> float:
    """When a request for so many bytes has to be over (monotonic)."""
    return time.monotonic() + settings.timeout_seconds + size / MIN_RATE


def _ranges_for(scheme: str, settings: Downloading) -> Ranges:
    if scheme == "s3":
        from cfbus.sources.s3_ranges import S3Ranges

        return S3Ranges(settings)
    if scheme in SCHEMES:
        from cfbus.sources.http_ranges import HttpRanges

        return HttpRanges(settings)
    raise SourceError(f"dataset.paths: nothing here reads {display(scheme, 20)}://.", "Tars: http://, https://, s3://.")
