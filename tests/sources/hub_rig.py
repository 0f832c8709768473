"""A small hub on the loopback: what huggingface_hub asks a hub for, with faults on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

FIRST, SECOND = "1" * 40, "2" * 40
PAGE = 3
"""How many files a page of a listing has."""

Fault = Callable[["Asked"], bool]
"""Answers in the hub's place if it likes; says whether it did."""


class FakeHub(ThreadingHTTPServer):
    """Datasets by name, each with commits, each of which has files; ``faults`` by a part of the path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.cards: dict[str, dict[str, object]] = {}
        self.faults: dict[str, Fault] = {}
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.sent = 0
        self.links = ""  # what a listing says its next page is at, where that is not this server

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, files: Mapping[str, bytes], commit: str = FIRST, branch: str = "main") -> None:
        self.commits.setdefault(name, {})[commit] = dict(files)
        self.branches.setdefault(name, {})[branch] = commit

    def times(self, part: str) -> int:
        """How often something was asked for whose path has this in it."""
        return sum(part in path for path, _ in self.asked)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go away."""


class Asked(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: FakeHub

    def do_GET(self) -> None:
        hub = self.server
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if "/datasets/" not in path:
            self.answer(404)  # the library asks other things too
            return
        hub.asked.append((path, self.headers.get("range", "")))
        hub.tokens.add(self.headers.get("authorization", ""))
        fault = next((fault for part, fault in hub.faults.items() if part in path), None)
        if fault is not None and fault(self):
            return
        if path.startswith("/api/datasets/"):
            self._api(path.removeprefix("/api/datasets/"), parse_qs(parts.query))
        else:
            self._file(path.removeprefix("/datasets/"))

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        name, (what, revision) = "/".join(path.split("/")[:2]), path.split("/", 3)[2:]
        files = self._files(name, revision)
        if files is None:
            return
        if what == "revision":
            commit = self.server.branches[name].get(revision, revision)
            self.json({"id": name, "sha": commit, "cardData": self.server.cards.get(name)})
            return
        at = int(query.get("cursor", ["0"])[0])
        entries: list[dict[str, object]] = [{"type": "directory", "path": "data", "oid": "0"}] if not at else []
        some = sorted(files)[at : at + PAGE]
        entries += [{"type": "file", "path": each, "size": len(files[each]), "oid": "0"} for each in some]
        server = self.server.links or self.server.endpoint
        following = f"{server}/api/datasets/{name}/tree/{revision}?recursive=true&cursor={at + PAGE}"
        more = {"Link": f'<{following}>; rel="next"'} if at + PAGE < len(files) else {}
        self.json(entries, **more)

    def _files(self, name: str, revision: str) -> dict[str, bytes] | None:
        hub = self.server
        if name not in hub.commits:
            self.answer(401, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
            return None
        commit = hub.branches[name].get(revision, revision)
        if commit not in hub.commits[name]:
            self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            return None
        return hub.commits[name][commit]

    def _file(self, path: str) -> None:
        name, rest = "/".join(path.split("/")[:2]), path.split("/", 4)
        files = self._files(name, rest[3])
        if files is None:
            return
        data = files.get(rest[4])
        if data is None:
            self.answer(404, b"", X_Error_Code="EntryNotFound")
            return
        asked = self.headers.get("range")
        if not asked:
            self.answer(200, data)
            return
        start, end = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        piece = data[start : end + 1]
        self.answer(206, piece, Content_Range=f"bytes {start}-{start + len(piece) - 1}/{len(data)}")

    def json(self, said: object, **headers: str) -> None:
        self.answer(200, json.dumps(said).encode(), **headers)

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def says(code: int, times: int = 1000, **headers: str) -> Fault:
    """An answer of this code, so often; then the hub's own."""
    left = iter(range(times))

    def fault(asked: Asked) -> bool:
        if next(left, None) is None:
            return False
        asked.answer(code, b"{}", **headers)
        return True

    return fault


def cut(times: int = 1000) -> Fault:
    """The connection ends in the middle of the body."""
    left = iter(range(times))

    def fault(asked: Asked) -> bool:
        if next(left, None) is None:
            return False
        start, end = (int(number) for number in asked.headers["range"].removeprefix("bytes=").split("-"))
        asked.send_response(206)
        asked.send_header("Content-Length", str(end + 1 - start))
        asked.send_header("Content-Range", f"bytes {start}-{end}/{1 << 30}")
        asked.end_headers()
        asked.wfile.write(bytes((end + 1 - start) // 2))
        asked.close_connection = True
        return True

    return fault
