"""A small Hugging Face hub on the loopback: one dataset, its commits, range reads, and what can go wrong."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_RESOLVE = re.compile(r"/datasets/([\w.-]+/[\w.-]+)/resolve/([0-9a-f]{40}|[\w%./-]+?)/(.+)")
_API = re.compile(r"/api/datasets/([\w.-]+/[\w.-]+)(?:/(revision|paths-info|tree)/([^/?]+)(?:/(.*))?)?")


@dataclass
class Hub:
    """What the server holds: ``commits`` by hash, each a map of paths to bytes; ``refs`` by branch."""

    repo: str
    commits: dict[str, Mapping[str, bytes]]
    refs: dict[str, str]
    card: Mapping[str, object] = field(default_factory=dict)
    token: str = ""
    fail: dict[str, list[int]] = field(default_factory=dict)
    """For a path: statuses that its next reads get before they work; -1 cuts the connection in the middle."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def sha(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision.replace("%2F", "/"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"}, body=body)
            return
        api, resolve = _API.fullmatch(path), _RESOLVE.fullmatch(path)
        repo = (api or resolve or re.match("()", ""))[1]  # type: ignore[index]
        if repo != self.hub.repo:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
        elif api is not None:
            self._api(api[2] or "revision", api[3] or "main", api[4] or "", body=body)
        elif resolve is not None:
            self._file(resolve[2], resolve[3], body=body)

    def _api(self, kind: str, revision: str, folder: str, *, body: bool) -> None:
        sha = self.hub.sha(revision)
        if sha is None:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
            return
        files = self.hub.commits[sha]
        info: Any = {
            "id": self.hub.repo, "sha": sha, "siblings": [{"rfilename": path} for path in files],
            "cardData": self.hub.card, "tags": [],
        }  # fmt: skip
        if kind != "revision":
            below = {path: data for path, data in files.items() if path.startswith(folder)}
            info = [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in below.items()]
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body=body)

    def _file(self, revision: str, path: str, *, body: bool) -> None:
        sha = self.hub.sha(revision)
        data = self.hub.commits[sha].get(path) if sha else None
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
            return
        wrong = self.hub.fail.get(path, [])
        status = wrong.pop(0) if wrong and body else 0
        if status > 0:
            self._send(status, b"", {"Retry-After": "0"}, body=body)
            return
        start, end = 0, len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = {"ETag": f'"{sha}-{path}"', "X-Repo-Commit": sha or "", "Accept-Ranges": "bytes"}
        if asked:
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._send(206 if asked else 200, data[start:end], headers, body=body, cut=status < 0)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], *, body: bool, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, while it serves; ``url`` is its address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
