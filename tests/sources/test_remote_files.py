"""Files behind http and https: ranges, versions, and servers that break the rules."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import trustme
from sources.remote_rig import Ranged
from sources.web_rig import Asked, Page, WebServer, at, moved, raw, serving, status

from cfbus.config_downloads import Downloading
from cfbus.config_types import shown_url
from cfbus.sources import http_ranges, remote_files
from cfbus.sources.base import ReadError
from cfbus.sources.http_ranges import HttpRanges
from cfbus.sources.remote_blocks import Blocks, Forwards
from cfbus.sources.remote_files import RemoteFiles

DATA = bytes(range(256)) * 40


@pytest.fixture(name="opener")
def _opener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RemoteFiles]]:
    monkeypatch.setattr(remote_files, "pause_before", lambda attempt: 0.0)
    made: list[RemoteFiles] = []

    def make(trust: ssl.SSLContext | None = None, resolve: Any = None, **settings: Any) -> RemoteFiles:
        more = {} if resolve is None else {"resolve": resolve}
        ranges = HttpRanges(Downloading(**settings), trust=trust, **more)
        made.append(RemoteFiles(Downloading(**settings), {"http": ranges, "https": ranges}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def failed(files: RemoteFiles, address: str) -> ReadError:
    with pytest.raises(ReadError) as caught:
        files.open(address).read(100, 50)
    assert type(caught.value) is ReadError
    assert caught.value.detail.endswith((".", "?"))
    return caught.value


def test_ranges_are_read_under_the_version_that_was_opened(opener: Callable[..., RemoteFiles]) -> None:
    page = Ranged(DATA)
    with serving({"/a.tar": page}) as web:
        file = opener().open(at(web, "/a.tar?sig=1"), 10)
        assert (file.size, file.first) == (len(DATA), DATA[:10])
        assert file.read(3, 4) == DATA[3:7]
        assert file.read(5000, 100) == DATA[5000:5100]
        assert file.read(len(DATA) - 3, 100) == DATA[-3:]
        assert file.read(len(DATA), 1) == b""
    assert page.asked == [(0, 10), (5000, 5100), (len(DATA) - 3, len(DATA))]
    assert [each.get("if-match") for each in page.headers] == [None, '"one"', '"one"']


def test_an_empty_file_is_empty(opener: Callable[..., RemoteFiles]) -> None:
    with serving({"/": Ranged(b"")}) as web:
        file = opener().open(at(web, "/a.tar"), 10)
        assert (file.size, file.read(0, 10)) == (0, b"")


@pytest.mark.parametrize("change", ["etag", "weak etag", "date", "size"])
def test_a_file_that_changes_is_noticed_by_etag_date_or_size(opener: Callable[..., RemoteFiles], change: str) -> None:
    page = Ranged(DATA, etag={"etag": '"one"', "weak etag": 'W/"one"'}.get(change, ""), modified="yesterday")
    with serving({"/": page}) as web:
        file = opener().open(at(web, "/a.tar"))
        assert file.read(100, 5) == DATA[100:105]
        if "etag" in change:
            page.etag = page.etag.replace("one", "two")
        elif change == "date":
            page.modified = "today"
        else:
            page.data = DATA + b"more"
        with pytest.raises(ReadError) as caught:
            file.read(100, 5)
        assert (caught.value.reason.value, caught.value.fault) == ("changed", "item")
        assert opener().open(at(web, "/a.tar")).stamp != file.stamp


def test_an_answer_that_is_cut_off_is_asked_for_again_and_never_an_end(opener: Callable[..., RemoteFiles]) -> None:
    page = Ranged(DATA)
    with serving({"/": page}) as web:
        file = opener(attempts=3).open(at(web, "/a.tar"))
        page.cut = 2
        assert file.read(1000, 500) == DATA[1000:1500]
        page.cut = 3
        with pytest.raises(ReadError) as caught:
            file.read(1000, 500)
        assert (caught.value.reason.value, caught.value.fault) == ("bad-answer", "network")
    assert len(page.asked) == 1 + 3 + 3


def test_a_server_that_ignores_ranges_is_refused_after_its_headers(opener: Callable[..., RemoteFiles]) -> None:
    with serving({"/": status(200, DATA)}) as web:
        error = failed(opener(), at(web, "/a.tar"))
        assert (error.reason.value, error.fault) == ("bad-answer", "worker")
        assert "ignores Range" in error.detail
        assert web.asked["/a.tar"] == 1


HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nContent-Range: %s\r\n\r\n"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (raw(HEAD % (1, b"bytes 5-5/100") + b"x"), "another range"),
        (raw(HEAD % (1, b"bytes 0-5/3") + b"x"), "another range"),
        (raw(HEAD % (1, b"bytes 0-0/*") + b"x"), "no plain range"),
        (raw(HEAD % (1, b"items 0-0/5") + b"x"), "no plain range"),
        (raw(HEAD % (3, b"bytes 0-0/100") + b"xyz"), "more than it was asked"),
        (raw(b"HTTP/1.1 206 OK\r\nContent-Type: multipart/byteranges\r\n\r\n"), "no plain range"),
    ],
)
def test_answers_that_are_not_what_was_asked_for(opener: Callable[..., RemoteFiles], page: Page, said: str) -> None:
    with serving({"/": page}) as web:
        error = failed(opener(), at(web, "/a.tar"))
        assert said in error.detail
        assert (error.reason.value, error.fault) == ("bad-answer", "worker")


@pytest.mark.parametrize(
    ("code", "fault", "times"), [(404, "item", 1), (403, "worker", 1), (401, "worker", 1), (500, "network", 2)]
)
def test_what_servers_refuse(opener: Callable[..., RemoteFiles], code: int, fault: str, times: int) -> None:
    with serving({"/": status(code)}) as web:
        error = failed(opener(attempts=2), at(web, "/a.tar"))
        assert (error.reason.value, error.fault, web.asked["/a.tar"]) == (f"http-{code}", fault, times)


def test_one_byte_a_second_is_too_slow(opener: Callable[..., RemoteFiles], monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(asked: Asked) -> None:
        asked.wfile.write(HEAD % (1 << 20, b"bytes 0-1048575/1048576"))
        while not done.wait(0.05):
            asked.wfile.write(b"x")

    done = threading.Event()
    monkeypatch.setattr(http_ranges, "MIN_RATE", 1 << 20)
    with serving({"/": slow}) as web:
        with pytest.raises(ReadError) as caught:
            opener(attempts=1, timeout_seconds=1).open(at(web, "/a.tar"), 1 << 20)
        done.set()
    assert (caught.value.reason.value, caught.value.fault) == ("too-slow", "network")
    assert "total_seconds" not in caught.value.detail


def test_headers_that_dribble_end_too(opener: Callable[..., RemoteFiles]) -> None:
    def slow(asked: Asked) -> None:
        asked.wfile.write(b"HTTP/1.1 206 OK\r\nX-Long: ")
        while not done.wait(0.05):
            asked.wfile.write(b"x")

    done = threading.Event()
    with serving({"/": slow}) as web:
        with pytest.raises(ReadError) as caught:
            opener(attempts=1, timeout_seconds=1).open(at(web, "/a.tar"))
        done.set()
    assert (caught.value.reason.value, caught.value.fault) in [("too-slow", "network"), ("no-answer", "network")]
    assert "total_seconds" not in caught.value.detail


def test_redirects_are_followed_a_few_times(opener: Callable[..., RemoteFiles]) -> None:
    with serving({"/a": moved("/b"), "/b": moved("/c"), "/c": Ranged(DATA), "/loop": moved("/loop")}) as web:
        assert opener().open(at(web, "/a")).read(1, 2) == DATA[1:3]
        error = failed(opener(max_redirects=3), at(web, "/loop"))
        assert (error.reason.value, error.fault, web.asked["/loop"]) == ("too-many-redirects", "item", 4)


def test_a_redirect_to_another_host_gets_no_password_and_into_no_private_network(
    opener: Callable[..., RemoteFiles],
) -> None:
    page = Ranged(DATA)
    with serving({"/": page}) as elsewhere:
        there = f"http://127.0.0.1:{elsewhere.port}/x.tar"
        with serving({"/a": moved(there), "/m": moved("http://169.254.169.254/latest")}) as web:
            mine = f"http://user:secret@127.0.0.1:{web.port}"
            error = failed(opener(), f"{mine}/a.tar")
            assert (error.reason.value, page.asked) == ("private-address", [])
            files = opener(allow_private_addresses=True)
            assert files.open(f"{mine}/a.tar").read(1, 2) == DATA[1:3]
            assert all("authorization" not in each for each in page.headers)
            assert failed(files, f"{mine}/m.tar").reason.value == "private-address"
            sent = f"Basic {base64.b64encode(b'user:secret').decode()}"
            assert web.headers
            assert all(each["authorization"] == sent for each in web.headers)


@pytest.fixture(name="authority", scope="module")
def _authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextmanager
def tls(authority: trustme.CA, name: str, pages: Any) -> Iterator[WebServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with serving(pages, tls=context) as web:
        yield web


def test_https_checks_the_certificate(opener: Callable[..., RemoteFiles], authority: trustme.CA) -> None:
    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with tls(authority, "tars.example", {"/a": Ranged(DATA), "/down": moved("http://127.0.0.1:1/a")}) as web:
        files = opener(trust=trusting(authority), resolve=resolve)
        assert files.open(f"https://tars.example:{web.port}/a.tar").read(1, 2) == DATA[1:3]
        error = failed(files, f"https://other.example:{web.port}/a.tar")
        assert (error.reason.value, error.fault) == ("certificate", "worker")
        error = failed(opener(resolve=resolve), f"https://tars.example:{web.port}/a.tar")
        assert error.reason.value == "certificate"
        assert "not encrypted" in failed(files, f"https://tars.example:{web.port}/down").detail


@pytest.mark.parametrize(
    "address", ["http://u:secret@127.0.0.1:{}/a.tar?token=secret#secret", "http://127.0.0.1:{}/a?X-Signature=secret"]
)
@pytest.mark.parametrize("page", [status(404), status(500), status(200), raw(b"nonsense"), moved("/again")])
def test_nothing_secret_of_an_address_is_told(opener: Callable[..., RemoteFiles], address: str, page: Page) -> None:
    with serving({"/": page}) as web:
        said = failed(opener(attempts=1), address.format(web.port)).detail
    assert "secret" not in said
    assert f"http://127.0.0.1:{web.port}/a" in said


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("HTTPS://u:p@h.example:8/a/b.tar", "https://h.example:8/a/b.tar"),
        ("s3://bucket/a?b", "s3://bucket/a?…"),
        ("https://[broken/secret", "https://…"),
        ("http://h/\x1b[31m", "http://h/\\x1b[31m"),
    ],
)
def test_shown(address: str, shown: str) -> None:
    assert shown_url(address) == shown


def test_many_threads_ask_for_each_block_once(opener: Callable[..., RemoteFiles]) -> None:
    page = Ranged(DATA)
    with serving({"/": page}) as web:
        file = opener().open(at(web, "/a.tar"))
        blocks = Blocks(1000, 4000)
        page.asked.clear()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: blocks.read(file, n * 10, 10), range(300)))
        assert b"".join(found) == DATA[:3000]
        assert sorted(page.asked) == [(0, 1000), (1000, 2000), (2000, 3000)]
        assert blocks.read(file, 2500, 3000) == DATA[2500:5500]
        assert blocks.read(file, len(DATA) - 5, 100) == DATA[-5:]
        assert blocks.read(file, len(DATA), 5) == b""
        page.asked.clear()
        assert blocks.read(file, 0, 5) == DATA[:5], "it was dropped: four blocks are kept"
        assert page.asked == [(0, 1000)]


def test_a_block_that_failed_is_asked_for_again(opener: Callable[..., RemoteFiles]) -> None:
    page = Ranged(DATA)
    with serving({"/": page}) as web:
        file = opener(attempts=1).open(at(web, "/a.tar"))
        blocks = Blocks(1000, 4000)
        page.cut = 1
        with pytest.raises(ReadError):
            blocks.read(file, 0, 10)
        assert blocks.read(file, 0, 10) == DATA[:10]


def test_a_file_object_skips_by_asking_for_less(
    opener: Callable[..., RemoteFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfbus.sources import remote_blocks

    monkeypatch.setattr(remote_blocks, "SMALLEST_WINDOW", 100)
    page = Ranged(DATA)
    with serving({"/": page}) as web:
        remote = opener().open(at(web, "/a.tar"), 100)
        file = Forwards(remote)
        assert file.read(50) + file.read(60) == DATA[:110]
        assert file.read(2000) == DATA[110:2110]
        assert file.seek(0, 2) == len(DATA)
        assert file.read(1) == b""
        for place in range(3000, 9000, 2000):
            file.seek(place)
            assert file.read(10) == DATA[place : place + 10]
        assert file.seek(-5, 1) == 7005
        assert file.read() == DATA[7005:]
    lengths = [min(last, len(DATA)) - begin for begin, last in page.asked]
    assert lengths[1:5] == [200, 400, 800, 1600]
    assert lengths[5:8] == [400, 100, 200]
