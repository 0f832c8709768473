"""Ranges of files over HTTP: one request, one range, the answer checked before it counts.

What it is for: `HttpRanges`, how `remote_files` asks http and https.
What it must not know: tars, caches, how often something is tried.

A configuration names the hosts, so they may be of a private network. Where one of them redirects to is nobody's choice
here: another host is asked under the rules of downloads, without user and password, and never in the clear
where the first was asked by TLS.
"""

from __future__ import annotations

import base64
import re
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from cfbus.config_downloads import Downloading
from cfbus.config_types import shown_url
from cfbus.errors import SourceError
from cfbus.sources.addresses import PassingError, Resolve, resolve_by_system
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.downloads import MOVED, refused
from cfbus.sources.remote_files import MIN_RATE, Piece, changed, deadline

if TYPE_CHECKING:
    from httpx2 import URL

    from cfbus.sources.fetching import Answer

_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_NO_RANGE: Final = re.compile(r"bytes \*/(\d{1,19})")
_STRONG: Final = "etag "
CONNECTIONS: Final = 32


class HttpRanges:
    """See `Ranges`. Raises SourceError when the library is not installed."""

    def __init__(
        self, settings: Downloading, *, resolve: Resolve = resolve_by_system, trust: ssl.SSLContext | None = None
    ) -> None:
        try:
            from cfbus.sources.fetching import Fetcher, web_address
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("httpx2", "httpcore2"):
                raise
            raise SourceError(
                "Reading tars over HTTP needs httpx2, which is not installed here.", "pip install 'cfbus[remote]'"
            ) from None
        named = settings.model_copy(update={"allow_private_addresses": True, "at_once": CONNECTIONS})
        self._settings = settings
        self._named = Fetcher(named, resolve, trust)
        self._elsewhere = Fetcher(settings.model_copy(update={"at_once": CONNECTIONS}), resolve, trust)
        self._address = web_address

    def close(self) -> None:
        self._named.close()
        self._elsewhere.close()

    def names(self, prefix: str) -> Iterator[str]:
        raise ReadError(ReadReason.BAD_URL, f"{shown_url(prefix)}: a web server lists nothing.", "item")

    def get(self, address: str, offset: int, size: int, version: str) -> Piece:
        """See `Ranges.get`."""
        first, secret = self._taken_apart(address)
        until = deadline(self._settings, size)
        asked = [(b"Range", f"bytes={offset}-{offset + size - 1}".encode())]
        if version.startswith(_STRONG):
            asked.append((b"If-Match", version.removeprefix(_STRONG).encode("latin-1")))
        target = first
        for _ in range(self._settings.max_redirects + 1):
            own = _origin(target) == _origin(first)
            fetcher = self._named if own else self._elsewhere
            try:
                with fetcher.open(target, until, [*asked, *(secret if own else [])]) as answer:
                    place = answer.first(b"location") if answer.status in MOVED else ""
                    if not place:
                        return self._piece(answer, address, offset, size, version)
                    target = self._moved(target, place)
            except ReadError as error:
                raise _worded(error, address) from None
        detail = f"{shown_url(address)} is redirected more than {self._settings.max_redirects} times."
        raise ReadError(ReadReason.REDIRECTS, detail, "item")

    def _taken_apart(self, address: str) -> tuple[URL, list[tuple[bytes, bytes]]]:
        scheme, _, rest = address.partition("://")
        place, slash, path = rest.partition("/")
        user, at, host = place.rpartition("@")
        url = self._address(f"{scheme}://{host}{slash}{path}")
        if not at:
            return url, []
        return url, [(b"Authorization", b"Basic " + base64.b64encode(unquote(user).encode()))]

    def _piece(self, answer: Answer, address: str, offset: int, size: int, version: str) -> Piece:
        if answer.status == 412:
            raise changed(address)
        if answer.status == 416:
            return _behind_the_end(answer, address, offset)
        if answer.status == 200:
            detail = "The server ignores Range and sends the whole file; download it, or ask one that knows ranges."
            raise ReadError(ReadReason.BAD_ANSWER, detail, "worker")
        if answer.status != 206:
            raise refused(answer)
        packed = answer.first(b"content-encoding").lower()
        said = _RANGE.fullmatch(answer.first(b"content-range"))
        if said is None or packed not in ("", "identity"):
            raise ReadError(ReadReason.BAD_ANSWER, "The server's answer to Range says no plain range.", "worker")
        begin, last, total = map(int, said.groups())
        now = _version(answer)
        if version and now != version:
            raise changed(address)
        if begin != offset or last != min(offset + size, total) - 1:
            raise ReadError(ReadReason.BAD_ANSWER, "The server sent another range than it was asked for.", "worker")
        return Piece(_body(answer, last + 1 - begin, self._settings.timeout_seconds), total, now)

    def _moved(self, target: URL, place: str) -> URL:
        url = self._address(place, target)
        if target.scheme == "https" and url.scheme != "https":
            detail = f"https://{target.host} redirects to an address that is not encrypted."
            raise ReadError(ReadReason.BAD_URL, detail, "item")
        return url


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _worded(error: ReadError, address: str) -> ReadError:
    """The error with the address in it, as its reader asked for no image."""
    detail = error.detail
    if "total_seconds" in detail:  # a rule for images
        detail = "It came too slowly."
    where = shown_url(address)
    if where not in detail:
        detail = f"{where}: {detail}"
    if not isinstance(error, PassingError):
        # No address of a configuration is an item's fault: another host may be let in, or be spoken to otherwise.
        here = str(error.reason) in ("http-401", "http-403", ReadReason.CERTIFICATE, ReadReason.NO_SUCH_HOST)
        return ReadError(error.reason, detail, "worker" if here else error.fault)
    worded = PassingError(error.reason, detail, error.fault)
    worded.wait = error.wait
    return worded


def _behind_the_end(answer: Answer, address: str, offset: int) -> Piece:
    said = _NO_RANGE.fullmatch(answer.first(b"content-range"))
    if offset == 0 and said is not None and int(said[1]) == 0:
        return Piece(b"", 0, _version(answer))
    raise changed(address)


def _version(answer: Answer) -> str:
    etag = answer.first(b"etag")[:1000]
    if etag:
        return f"weak {etag}" if etag.startswith("W/") else _STRONG + etag
    when = answer.first(b"last-modified")[:100]
    return f"date {when}" if when else ""


def _body(answer: Answer, size: int, patience: float) -> bytes:
    body = bytearray()
    began = time.monotonic()
    for piece in answer.pieces:
        body += piece
        if len(body) > size:
            raise ReadError(ReadReason.BAD_ANSWER, "The server sent more than it was asked for.", "worker")
        took = time.monotonic() - began
        if len(body) < (took - patience) * MIN_RATE:
            detail = f"The server sent {len(body)} bytes in {took:.0f} s."
            raise PassingError(ReadReason.TOO_SLOW, detail, "network")
    if len(body) < size:
        raise PassingError(ReadReason.BAD_ANSWER, f"The answer was cut off after {len(body)} bytes.", "network")
    return bytes(body)
