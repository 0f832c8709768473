"""A web server on the loopback that serves parts of files, and does what servers should not do."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is served, by path; ``wrong`` says what to do to the next requests for the bytes of a path."""

    files: dict[str, bytes]
    wrong: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def ranges(self, path: str) -> list[str]:
        return [part for method, asked, part in self.asked if asked == path and method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Files

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.served.asked.append((self.command, self.path, self.headers.get("Range", "")))
        data = self.served.files.get(self.path)
        todo = self.served.wrong.get(self.path, [])
        wrong = todo.pop(0) if todo and body else ""
        if data is None or wrong.isdecimal():
            self._send(int(wrong) if wrong else 404, b"", {}, body=body)
            return
        tag = f'"{blake2b(data, digest_size=8).hexdigest()}"'
        if self.headers.get("If-Match", tag) != tag:
            self._send(412, b"", {}, body=body)
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = {"ETag": tag, "Accept-Ranges": "bytes", "Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT"}
        if part is None or wrong == "whole":
            self._send(200, data, headers, body=body, wrong=wrong)
            return
        start, end = int(part[1]), min(int(part[2]) + 1, len(data))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._send(206, data[start:end], headers, body=body, wrong=wrong)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool, wrong: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if wrong == "cut" else data)
        self.close_connection = self.close_connection or wrong == "cut"


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Files]:
    """The server, while it serves; ``url`` is its address."""
    served = Files(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
