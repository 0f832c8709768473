"""One request over HTTP: connected to a checked address, bounded in time, its errors told in words.

What it is for: `Fetcher.open` sends a GET and hands out the answer while it comes in.
What it must not know: lists, retries, what makes an answer an image.

The libraries' own parts are used below the level of a client: no cookies, no redirects, no credentials, no proxies and
nothing from the environment but the certificates that the system trusts.

Invariants:
- A connection is made to an address that `checked_addresses` let through, under the name that was asked for: the
  certificate has to fit the name. Connections that are used again were checked when they were made.
- Nothing waits beyond the request's end: it bounds every single read and write, also of headers that dribble in.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpcore2
import httpx2

from cfbus.config_downloads import Downloading
from cfbus.sources.addresses import PassingError, Resolve, checked_addresses
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.columns import MAX_URL_BYTES

KEEP_SECONDS: Final = 15.0
_SCHEMES: Final = ("http", "https")


def web_address(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """The URL in this text, relative to ``base``. Raises ReadError for what is no address of a picture on the web."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        raise ReadError(ReadReason.BAD_URL, f"Its address has more than {MAX_URL_BYTES} bytes.", "item")
    try:
        url = base.join(text.strip()) if base is not None else httpx2.URL(text.strip())
    except (httpx2.InvalidURL, ValueError) as error:
        raise ReadError(ReadReason.BAD_URL, f"Its address is not one of the web: {str(error)[:200]}.", "item") from None
    if url.scheme not in _SCHEMES or not url.host:
        detail = f"Its address begins with {url.scheme[:20] or 'nothing'!r}, not with http:// or https://."
        raise ReadError(ReadReason.BAD_URL, detail, "item")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise ReadError(ReadReason.BAD_URL, f"Its address names the port {url.port}, which cannot be.", "item")
    if url.userinfo:
        raise ReadError(ReadReason.BAD_URL, "Its address holds a user name or password.", "item")
    return url.copy_with(fragment=None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered. ``pieces`` yields the body as it comes; it is not unpacked."""

    status: int
    headers: list[tuple[bytes, bytes]]
    pieces: Iterator[bytes]

    def all(self, name: bytes) -> list[str]:
        """The values of a header, which may come several times; ``name`` in small letters."""
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == name]

    def first(self, name: bytes) -> str:
        """The first value of a header, empty if there is none."""
        return next(iter(self.all(name)), "").strip()


class _End(threading.local):
    """When the request of this thread has to be over."""

    at: float = 0.0

    def left(self, timeout: float | None) -> float:
        """Seconds that may be waited now, at most ``timeout``."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise PassingError(
                ReadReason.TOO_SLOW, "It took too long in all (dataset.downloads.total_seconds).", "network"
            )
        return left if timeout is None else min(left, timeout)


class _Stream(httpcore2.NetworkStream):
    """A connection that no request uses longer than it may."""

    def __init__(self, inner: httpcore2.NetworkStream, end: _End) -> None:
        self._inner = inner
        self._end = end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._end.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._end.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            inner = self._inner.start_tls(ssl_context, server_hostname, self._end.left(timeout))
        except httpcore2.ConnectError as error:
            cause = error.__cause__
            if not isinstance(cause, ssl.SSLCertVerificationError):
                raise
            detail = f"The certificate of {server_hostname} is not good: {cause.verify_message.rstrip('.')}."
            raise ReadError(ReadReason.CERTIFICATE, detail, "item") from None
        return _Stream(inner, self._end)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the library's signature
        return self._inner.get_extra_info(info)


class _Guard(httpcore2.NetworkBackend):
    """Connects to checked addresses and nothing else."""

    def __init__(self, resolve: Resolve, *, allow_private: bool, end: _End) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._end = end
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = checked_addresses(host, port, self._resolve, allow_private=self._allow_private)
        last = len(addresses) - 1
        for number, address in enumerate(addresses):
            try:
                return self._connected(address, port, timeout, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == last:
                    raise
        raise AssertionError("no address")

    def _connected(
        self, address: str, port: int, timeout: float | None, options: Iterable[Any] | None
    ) -> httpcore2.NetworkStream:
        stream = self._plain.connect_tcp(address, port, self._end.left(timeout), socket_options=options)
        return _Stream(stream, self._end)


class Fetcher:
    """Sends requests, from any thread."""

    def __init__(self, settings: Downloading, resolve: Resolve, trust: ssl.SSLContext | None = None) -> None:
        self._end = _End()
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), float(settings.timeout_seconds))
        self._headers = [
            (b"User-Agent", settings.user_agent.encode("latin-1", "replace")),
            (b"Accept", b"image/*,*/*;q=0.5"),
            (b"Accept-Encoding", b"identity"),
        ]
        self._pool = httpcore2.ConnectionPool(
            ssl_context=trust if trust is not None else httpx2.create_ssl_context(),
            max_connections=settings.at_once,
            keepalive_expiry=KEEP_SECONDS,
            network_backend=_Guard(resolve, allow_private=settings.allow_private_addresses, end=self._end),
        )

    @contextmanager
    def open(self, url: httpx2.URL, until: float, more: Sequence[tuple[bytes, bytes]] = ()) -> Iterator[Answer]:
        """The answer to a GET with ``more`` headers, to be read by ``until`` (monotonic). Raises ReadError."""
        self._end.at = until
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b"Host", url.netloc), *self._headers, *more]
        with (
            _in_words(url.host),
            self._pool.stream("GET", target, headers=headers, extensions={"timeout": self._timeouts}) as response,
        ):
            yield Answer(response.status, response.headers, response.iter_stream())

    def close(self) -> None:
        """Let go of all connections."""
        self._pool.close()


@contextmanager
def _in_words(host: str) -> Iterator[None]:
    try:
        yield
    except httpcore2.TimeoutException as error:
        step = "no connection came about" if isinstance(error, httpcore2.ConnectTimeout) else "it says nothing"
        raise PassingError(ReadReason.NO_ANSWER, f"{host} was waited for in vain: {step}.", "network") from None
    except httpcore2.ConnectError as error:
        raise PassingError(
            ReadReason.CONNECTION_FAILED, f"No connection to {host}: {_said(error)}.", "network"
        ) from None
    except httpcore2.NetworkError as error:
        detail = f"The connection to {host} was cut: {_said(error)}."
        raise PassingError(ReadReason.CONNECTION_FAILED, detail, "network") from None
    except httpcore2.RemoteProtocolError as error:
        detail = f"What {host} answered is not whole or not HTTP: {_said(error)}."
        raise PassingError(ReadReason.BAD_ANSWER, detail, "network") from None
    except (httpcore2.LocalProtocolError, httpcore2.UnsupportedProtocol) as error:
        raise ReadError(ReadReason.BAD_URL, f"Its address cannot be asked for: {_said(error)}.", "item") from None


def _said(error: Exception) -> str:
    return str(error).rstrip(".")[:200]
