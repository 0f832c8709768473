"""Downloads that may go better the next time, are slow, or many at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from sources.web_rig import JPEG, Asked, Page, at, failed, image, raw, serving, status

from cfbus.sources.base import ReadError
from cfbus.sources.downloads import Downloads

# -- what is tried again


def test_what_may_pass_is_tried_again(open_downloads: Callable[..., Downloads]) -> None:
    turns = iter([status(503, Retry_After="0"), status(429, Retry_After=formatdate(usegmt=True)), image()])
    with serving({"/": lambda asked: next(turns)(asked)}) as server:
        assert open_downloads().get(at(server, "/a")) == JPEG
        assert server.asked["/a"] == 3


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (status(500), "http-500"),
        (status(503), "http-503"),
        (status(429, Retry_After="nonsense"), "http-429"),
        (status(408), "http-408"),
        (raw(b""), "bad-answer"),
        (raw(b"what?\r\n\r\n"), "bad-answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"), "bad-answer"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab"), "bad-answer"),
    ],
)
def test_what_does_not_pass_is_the_networks_fault(
    open_downloads: Callable[..., Downloads], page: Page, reason: str
) -> None:
    with serving({"/": page}) as server:
        error = failed(open_downloads(attempts=2), at(server, "/a"))
        assert (error.reason, error.fault) == (reason, "network")
        assert server.asked["/a"] == 2


def test_nobody_there(open_downloads: Callable[..., Downloads]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = failed(open_downloads(), f"http://127.0.0.1:{port}/")
    assert (error.reason, error.fault) == ("connection-failed", "network")


def test_retry_after_is_obeyed_or_the_item_given_back(
    open_downloads: Callable[..., Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({"/a": status(503, Retry_After="7"), "/b": status(429, Retry_After="3600")}) as server:
        downloads = open_downloads(attempts=2)
        waited: list[float] = []

        def wait(seconds: float) -> bool:
            waited.append(seconds)
            return False

        monkeypatch.setattr(downloads._closed, "wait", wait)
        assert "come back in 7 s" in failed(downloads, at(server, "/a")).detail
        assert waited == [7.0]
        error = failed(downloads, at(server, "/b"))
        assert (error.reason, error.fault, server.asked["/b"]) == ("http-429", "network", 1)


# -- what is slow


def drip(before: bytes) -> Page:
    """Sends this, then a byte now and then, for as long as somebody listens."""

    def page(asked: Asked) -> None:
        asked.wfile.write(before)
        asked.close_connection = True
        stop = threading.Event()
        for _ in range(1000):
            asked.wfile.write(b"x")
            stop.wait(0.05)

    return page


def test_a_byte_now_and_then_is_too_slow(open_downloads: Callable[..., Downloads]) -> None:
    with serving({"/": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")}) as server:
        began = time.monotonic()
        error = failed(open_downloads(timeout_seconds=1), at(server, "/a"))
        assert (error.reason, error.fault) == ("too-slow", "network")
        assert time.monotonic() - began < 20
        assert server.asked["/a"] == 1


def test_headers_that_never_end_end_with_the_items_time(open_downloads: Callable[..., Downloads]) -> None:
    with serving({"/": drip(b"HTTP/1.1 200 OK\r\nX-Endless: ")}) as server:
        error = failed(open_downloads(total_seconds=1), at(server, "/a"))
    assert error.reason in ("too-slow", "no-answer")  # by whether the time ends between two reads or in one
    assert error.fault == "network"


def test_a_server_that_says_nothing(open_downloads: Callable[..., Downloads]) -> None:
    done = threading.Event()

    def silent(asked: Asked) -> None:
        done.wait(30)

    with serving({"/": silent}) as server:
        error = failed(open_downloads(timeout_seconds=1, attempts=1), at(server, "/a"))
        done.set()
    assert (error.reason, error.fault) == ("no-answer", "network")


# -- many at once


def test_many_at_once_but_few_at_one_host(open_downloads: Callable[..., Downloads]) -> None:
    done = threading.Event()

    def hold(asked: Asked) -> None:
        assert done.wait(30)
        asked.answer(200, JPEG)

    got: list[bytes] = []
    with serving({"/": hold}) as server:
        downloads = open_downloads(resolve=lambda *_: ["127.0.0.1"], per_host=3, at_once=32)
        hosts = ("a.example", "b.example")
        work = [
            threading.Thread(target=lambda url: got.append(downloads.get(url)), args=(f"http://{host}:{server.port}/",))
            for host in hosts * 10
        ]
        for thread in work:
            thread.start()
        with server.state:
            assert server.state.wait_for(lambda: server.now == 6, 30)
        done.set()
        for thread in work:
            thread.join(30)
        assert server.most == 6
    assert got == [JPEG] * 20


def test_close_wakes_who_waits_to_try_again(open_downloads: Callable[..., Downloads]) -> None:
    errors: list[ReadError] = []
    with serving({"/": status(503, Retry_After="60")}) as server:
        downloads = open_downloads()
        thread = threading.Thread(target=lambda: errors.append(failed(downloads, at(server, "/a"))))
        thread.start()
        with server.state:
            assert server.state.wait_for(lambda: server.asked["/a"] == 1, 30)
        downloads.close()
        thread.join(30)
    assert [error.fault for error in errors] == ["worker"]
