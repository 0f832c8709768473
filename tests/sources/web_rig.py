"""A web server on the loopback whose pages are functions; counts who asks, and how many at once."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cfbus.sources.base import ReadError
from cfbus.sources.downloads import Downloads

JPEG = b"\xff\xd8\xff\xe0 not really a picture"


class Asked(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 20
    server: WebServer

    def do_GET(self) -> None:
        web = self.server
        path = self.path.partition("?")[0]
        with web.state:
            web.asked[path] += 1
            web.headers.append({name.lower(): value for name, value in self.headers.items()})
            web.now += 1
            web.most = max(web.most, web.now)
            web.state.notify_all()
        try:
            page = next((page for start, page in web.pages.items() if path.startswith(start)), None)
            (page or status(404))(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with web.state:
                web.now -= 1

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; ``X_Robots_Tag="…"`` is a header."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


Page = Callable[[Asked], None]


class WebServer(ThreadingHTTPServer):
    """Pages by the beginning of their path."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, pages: Mapping[str, Page], host: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        self.state = threading.Condition()
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        super().__init__((host, 0), Asked)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no error here."""


@contextmanager
def serving(
    pages: Mapping[str, Page], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[WebServer]:
    """The server, until the end of the block."""
    server = WebServer(pages, host)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, body: bytes = b"", **headers: str) -> Page:
    return lambda asked: asked.answer(code, body, **headers)


def image(body: bytes = JPEG, **headers: str) -> Page:
    return status(200, body, **headers)


def moved(place: str, code: int = 302) -> Page:
    return status(code, Location=place)


def failed(downloads: Downloads, url: str) -> ReadError:
    with pytest.raises(ReadError) as caught:
        downloads.get(url)
    assert type(caught.value) is ReadError
    return caught.value


def at(server: WebServer, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def raw(data: bytes) -> Page:
    """Bytes as they are, then the end of the connection."""

    def page(asked: Asked) -> None:
        asked.wfile.write(data)
        asked.close_connection = True

    return page
