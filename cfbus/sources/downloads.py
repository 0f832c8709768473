"""Images from addresses on the web: polite to hosts, bounded in time and size, closed to what is not public.

What it is for: `Downloads.get`, an image's bytes by its address, or why there are none.
What it must not know: lists, tables, the bus, pictures beyond what a web page looks like.

Invariants:
- Every target, also that of a redirect, is checked anew; see `addresses`.
- One image costs at most `attempts` requests for each redirect and `total_seconds` in all (beyond waiting for its
  host's turn, which is bounded too), and `max_mib` of memory.
- What servers send is asked for unpacked and never unpacked here: no answer grows.
"""

from __future__ import annotations

import email.utils
import math
import random
import ssl
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cfbus.config_downloads import Downloading
from cfbus.errors import SourceError
from cfbus.sources.addresses import PassingError, Resolve, resolve_by_system
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.hosts import Hosts
from cfbus.sources.robots import forbidden_by

if TYPE_CHECKING:
    from httpx2 import URL

    from cfbus.sources.fetching import Answer

MIN_RATE: Final = 1024
MAX_PAUSE: Final = 30.0
MOVED: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429})
_PAGES: Final = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?xml", b"<!--", b"<svg")


class Downloads:
    """Fetches images, from any thread. Raises SourceError when the library for it is not installed.

    ``resolve`` and ``trust`` stand for the system's resolver and certificates.
    """

    def __init__(
        self, settings: Downloading, *, resolve: Resolve = resolve_by_system, trust: ssl.SSLContext | None = None
    ) -> None:
        try:
            from cfbus.sources.fetching import Fetcher, web_address
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("httpx2", "httpcore2"):
                raise
            raise SourceError(
                "Downloading images needs httpx2, which is not installed here.", "pip install 'cfbus[remote]'"
            ) from None
        self._settings = settings
        self._fetcher = Fetcher(settings, resolve, trust)
        self._address = web_address
        self._wanted = tuple(host.lower().removeprefix("*") for host in settings.hosts)
        self._hosts = Hosts(settings.per_host)
        self._most_bytes = settings.max_mib << 20
        self._turn_seconds = settings.total_seconds * math.ceil(settings.at_once / settings.per_host)
        self._closed = threading.Event()

    def get(self, url: str) -> bytes:
        """The bytes of the image at this address. Raises ReadError and nothing else."""
        target = self._address(url)
        spent = 0.0  # not: the time that was waited for other images of the host
        for _ in range(self._settings.max_redirects + 1):
            self._may_ask(target.host)
            with self._hosts.turn(target.host, self._turn_seconds) as mine:
                if not mine:
                    detail = f"Too many images of {target.host} are waited for."
                    raise ReadError(ReadReason.NO_ANSWER, detail, "network")
                began = time.monotonic()
                found = self._asked(target, began + self._settings.total_seconds - spent)
                spent += time.monotonic() - began
            if isinstance(found, bytes):
                return found
            target = found
        detail = f"It is redirected more than {self._settings.max_redirects} times."
        raise ReadError(ReadReason.REDIRECTS, detail, "item")

    def close(self) -> None:
        """Let go of all connections; who waits to try again, waits no more."""
        self._closed.set()
        self._fetcher.close()

    def _may_ask(self, host: str) -> None:
        if self._wanted and not any(host.endswith(end) if end[:1] == "." else host == end for end in self._wanted):
            detail = f"This worker does not ask {host} (dataset.downloads.hosts)."
            raise ReadError(ReadReason.OUTSIDE, detail, "worker")

    # -- one target

    def _asked(self, target: URL, until: float) -> bytes | URL:
        """The image, or where it is said to be; tried as often as allowed."""
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return self._attempt(target, until)
            except PassingError as error:
                pause = error.wait if error.wait is not None else pause_before(attempt)
                if attempt == self._settings.attempts or time.monotonic() + pause >= until:
                    raise ReadError(error.reason, error.detail, error.fault) from None
                if self._closed.wait(pause):
                    raise ReadError(error.reason, error.detail, "worker") from None
        raise AssertionError("no attempt")

    def _attempt(self, target: URL, until: float) -> bytes | URL:
        with self._fetcher.open(target, until) as answer:
            place = answer.first(b"location") if answer.status in MOVED else ""
            if place:
                return self._address(place, target)
            if answer.status != 200:
                raise refused(answer)
            self._check(answer)
            body = self._body(answer)
        _check_body(body)
        return body

    def _check(self, answer: Answer) -> None:
        settings = self._settings
        said = forbidden_by(answer.all(b"x-robots-tag"), settings.disallowed_header_directives, settings.user_agent)
        if said:
            raise ReadError(ReadReason.NOAI, f"The server's X-Robots-Tag says {said}.", "item")
        packed = answer.first(b"content-encoding").lower()
        if packed not in ("", "identity"):
            detail = f"The server packed it ({packed[:40]}), though it was asked for as it is."
            raise ReadError(ReadReason.BAD_ANSWER, detail, "item")
        length = answer.first(b"content-length")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._most_bytes:
            raise self._too_large(f"{length[:20]} bytes")

    def _body(self, answer: Answer) -> bytes:
        body = bytearray()
        began = time.monotonic()
        for piece in answer.pieces:
            body += piece
            if len(body) > self._most_bytes:
                raise self._too_large("more than that")
            took = time.monotonic() - began
            if took > self._settings.timeout_seconds and len(body) < took * MIN_RATE:
                detail = f"The server sent {len(body)} bytes in {took:.0f} s."
                raise ReadError(ReadReason.TOO_SLOW, detail, "network")
        return bytes(body)

    def _too_large(self, size: str) -> ReadError:
        return ReadError(ReadReason.TOO_LARGE, f"The limit is {self._most_bytes} bytes; it has {size}.", "item")


def refused(answer: Answer) -> ReadError:
    """The error of an answer that is no image: final for the item, or one that may pass."""
    status = answer.status
    reason = ReadReason(f"http-{status}")
    if status not in _PASSING and status < 500:
        return ReadError(reason, f"The server answered with {status}.", "item")
    wait = _retry_after(answer.first(b"retry-after"))
    later = f" and to come back in {wait:.0f} s" if wait is not None else ""
    error = PassingError(reason, f"The server answered with {status}{later}.", "network")
    error.wait = wait
    return error


def _retry_after(said: str) -> float | None:
    """Seconds, by a header that says them or a date; None where it says nothing that makes sense."""
    if said.isascii() and said.isdigit():
        return float(said[:9])
    try:
        when = email.utils.parsedate_to_datetime(said)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def pause_before(attempt: int) -> float:
    """Longer each time, and never the same for two, so that they do not come back together."""
    return float(min(MAX_PAUSE, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret


def _check_body(body: bytes) -> None:
    start = body[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not body:
        raise ReadError(ReadReason.NOT_AN_IMAGE, "The server answered with nothing.", "item")
    if start.startswith(_PAGES):
        what = "a drawing (SVG)" if b"<svg" in start else "a web page"
        raise ReadError(ReadReason.NOT_AN_IMAGE, f"The server answered with {what}, whatever it calls it.", "item")
