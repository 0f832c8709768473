"""Files behind addresses for tests: pages that know ranges, and a real S3 server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sources.web_rig import Asked

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Ranged:
    """A file that a web server gives by ranges, and how it was asked. ``cut`` answers end too early."""

    data: bytes
    etag: str = '"one"'
    modified: str = ""
    cut: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, asked: Asked) -> None:
        found = _RANGE.fullmatch(asked.headers["Range"])
        assert found is not None
        begin, last = int(found[1]), min(int(found[2]), len(self.data) - 1)
        with self.lock:
            self.asked.append((begin, int(found[2]) + 1))
            self.headers.append({name.lower(): value for name, value in asked.headers.items()})
            self.cut -= 1
            cut = self.cut >= 0
        wanted = asked.headers["If-Match"]
        if wanted and wanted != self.etag:
            asked.answer(412)
            return
        if begin >= len(self.data):
            asked.answer(416, Content_Range=f"bytes */{len(self.data)}")
            return
        body = self.data[begin : last + 1]
        more = {"ETag": self.etag} if self.etag else {}
        more |= {"Last_Modified": self.modified} if self.modified else {}
        if cut:
            asked.close_connection = True
        length = {"Content-Length": str(len(body)), "Content-Range": f"bytes {begin}-{last}/{len(self.data)}"}
        asked.answer(206, body[: len(body) // 2] if cut else body, **length, **more)


class Bucket:
    """A bucket of the S3 server."""

    def __init__(self, endpoint: str, name: str) -> None:
        from obstore.store import S3Store

        self.endpoint, self.name = endpoint, name
        self.store = S3Store(name, client_options={"allow_http": True})

    def put(self, key: str, data: bytes) -> None:
        import obstore

        obstore.put(self.store, key, data)


def s3_environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "the-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an S3 server with nothing in it."""
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stderr is not None
    try:
        found = next(match for line in process.stderr if (match := re.search(r"Running on (http://[0-9.:]+)", line)))
        reader = threading.Thread(target=process.stderr.read, daemon=True)  # it must not block on a full pipe
        reader.start()
        yield found[1]
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stderr.close()
