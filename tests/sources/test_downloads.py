"""Downloads from real servers on the loopback: what comes, and what is refused."""

from __future__ import annotations

import gzip
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from sources.web_rig import JPEG, Asked, Page, at, failed, image, moved, raw, serving, status

from cfbus.config_downloads import Downloading
from cfbus.errors import SourceError
from cfbus.sources.downloads import Downloads

# -- what comes


def test_the_bytes_come_as_they_are_and_connections_are_used_again(open_downloads: Callable[..., Downloads]) -> None:
    ports = set()

    def page(asked: Asked) -> None:
        ports.add(asked.client_address[1])
        asked.answer(200, JPEG)

    with serving({"/": page}) as server:
        downloads = open_downloads()
        assert {downloads.get(at(server, f"/{number}.jpg#part")) for number in range(5)} == {JPEG}
        assert len(ports) == 1
        headers = server.headers[0]
    assert headers["user-agent"] == "cfbus"
    assert headers["accept-encoding"] == "identity"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert not {"cookie", "authorization", "referer"} & set(headers)


def test_bytes_in_chunks_come_too(open_downloads: Callable[..., Downloads]) -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n"
    with serving({"/": raw(body)}) as server:
        assert open_downloads().get(at(server, "/a")) == b"abcdefg"


def test_redirects_are_followed_within_limits(open_downloads: Callable[..., Downloads]) -> None:
    pages = {"/a": moved("b?x=1", 301), "/b": moved("/c", 307), "/c": image(), "/loop": moved("/loop", 308)}
    with serving(pages) as server:
        downloads = open_downloads()
        assert downloads.get(at(server, "/a")) == JPEG
        error = failed(downloads, at(server, "/loop"))
        assert (error.reason, error.fault) == ("too-many-redirects", "item")
        assert server.asked["/loop"] == 6
        assert failed(open_downloads(max_redirects=1), at(server, "/a")).reason == "too-many-redirects"


def test_over_ipv6_and_past_an_address_that_does_not_answer(open_downloads: Callable[..., Downloads]) -> None:
    with serving({"/": image()}, "::1") as server:
        downloads = open_downloads(resolve=lambda host, port: ["127.0.0.1", "::1"])
        assert downloads.get(f"http://pictures.example:{server.port}/a.jpg") == JPEG
        assert server.headers[0]["host"] == f"pictures.example:{server.port}"


# -- what is refused


@pytest.mark.parametrize(
    ("page", "reason", "fault"),
    [
        (status(404), "http-404", "item"),
        (status(410), "http-410", "item"),
        (status(403), "http-403", "item"),
        (status(206, b"part"), "http-206", "item"),
        (status(304), "http-304", "item"),
        (status(302), "http-302", "item"),
        (image(b""), "not-an-image", "item"),
        (image(b"\xef\xbb\xbf \r\n<!DOCTYPE html><p>", Content_Type="image/jpeg"), "not-an-image", "item"),
        (image(b"<html>", Content_Type="image/jpeg"), "not-an-image", "item"),
        (image(b"<?xml version='1.0'?><svg/>"), "not-an-image", "item"),
        (image(gzip.compress(b"x" * 10_000), Content_Encoding="gzip"), "bad-answer", "item"),
        (image(X_Robots_Tag="noai"), "noai", "item"),
        (image(X_Robots_Tag="other: noai, cfbus: NoImageAI"), "noai", "item"),
        (image(b"x" * ((1 << 20) + 1)), "too-large-file", "item"),
        (moved("file:///etc/passwd"), "bad-url", "item"),
        (moved("ftp://127.0.0.1/a"), "bad-url", "item"),
        (moved("//user:word@127.0.0.1/a"), "bad-url", "item"),
        (moved("http://169.254.169.254/latest/meta-data"), "private-address", "item"),
        (moved("http://[fe80::1]/"), "private-address", "item"),
    ],
)
def test_what_is_no_image_is_said_at_the_first_try(
    open_downloads: Callable[..., Downloads], page: Page, reason: str, fault: str
) -> None:
    with serving({"/": page}) as server:
        error = failed(open_downloads(max_mib=1), at(server, "/a.jpg"))
        assert (error.reason, error.fault) == (reason, fault), error
        assert server.asked["/a.jpg"] == 1
    assert error.detail.endswith(".")


def test_directives_can_be_left_unheard(open_downloads: Callable[..., Downloads]) -> None:
    with serving({"/": image(X_Robots_Tag="noai")}) as server:
        assert open_downloads(disallowed_header_directives=()).get(at(server, "/a")) == JPEG


def test_a_body_without_a_length_ends_at_the_limit(open_downloads: Callable[..., Downloads]) -> None:
    sent = 0

    def endless(asked: Asked) -> None:
        nonlocal sent
        asked.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 1 << 28:
            asked.wfile.write(b"x" * 65536)
            sent += 65536
        asked.close_connection = True

    with serving({"/": endless}) as server:
        assert failed(open_downloads(max_mib=1), at(server, "/a")).reason == "too-large-file"
    assert sent < 1 << 26


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat /etc/passwd", "file:///etc/passwd", "ftp://example.org/a.jpg", "gopher://example.org/", "s3://a/b",
        "data:image/png;base64,AAAA", "//example.org/a.jpg", "/etc/passwd", "a.jpg", "", "http://", "http:///a",
        "https://user@example.org/a", "https://user:word@example.org/a", "http://example.org:99999/", "http://a\x00b/",
        "http://example.org:0/", "http://exa mple.org/a", "http://[::1/", "http://example.org/" + "a" * 2048, "http://xn--/",
    ],
)  # fmt: skip
def test_what_is_no_address_of_the_web_is_never_asked(open_downloads: Callable[..., Downloads], url: str) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "none")

    error = failed(open_downloads(resolve=resolve), url)
    assert error.fault == "item"
    assert error.reason == "bad-url" or (error.reason == "no-such-host" and asked != ["example.org"]), error


# -- addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
def test_this_host_is_not_asked_unless_that_is_allowed(open_downloads: Callable[..., Downloads], host: str) -> None:
    with serving({"/": image()}) as server:
        url = f"http://{host}:{server.port}/a"
        assert failed(open_downloads(allow_private_addresses=False), url).reason == "private-address"
        assert not server.asked
        assert open_downloads().get(url) == JPEG


def test_a_redirect_from_a_public_host_to_this_one_is_refused(open_downloads: Callable[..., Downloads]) -> None:
    """The public host is a name that is let through to the loopback once, as only a test can."""
    with serving({"/out": moved("http://inside.example/secret")}) as server:
        names = {"outside.example": ["127.0.0.1"], "inside.example": ["169.254.169.254", "fd00:ec2::254"]}
        downloads = open_downloads(resolve=lambda host, port: names[host])
        error = failed(downloads, f"http://outside.example:{server.port}/out")
    assert (error.reason, error.fault) == ("private-address", "item")
    assert "inside.example is 169.254.169.254" in error.detail


def test_a_name_that_changes_its_address_is_checked_where_it_is_connected(
    open_downloads: Callable[..., Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolved once for each connection, and that very address is connected to: there is no second look-up."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    connected: list[Any] = []

    def connect(address: Any, *more: Any, **others: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("not in this test")

    monkeypatch.setattr(socket, "create_connection", connect)
    downloads = open_downloads(resolve=lambda host, port: next(answers), allow_private_addresses=False, attempts=3)
    error = failed(downloads, "http://rebound.example:81/")
    assert connected == [("93.184.216.34", 81)]
    assert error.reason == "private-address"


def test_only_the_hosts_that_were_named_are_asked(open_downloads: Callable[..., Downloads]) -> None:
    with serving({"/a": image(), "/b": moved("http://evil.example/a")}) as server:
        downloads = open_downloads(resolve=lambda *_: ["127.0.0.1"], hosts=["good.example", "*.fine.example"])
        for host in ("good.example", "GOOD.example", "a.fine.example", "b.a.fine.example"):
            assert downloads.get(f"http://{host}:{server.port}/a") == JPEG
        for host in ("fine.example", "evilfine.example", "good.example.evil.example", "x.good.example"):
            error = failed(downloads, f"http://{host}:{server.port}/a")
            assert (error.reason, error.fault) == ("outside", "worker")
        assert failed(downloads, f"http://good.example:{server.port}/b").reason == "outside"


# -- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_the_certificate_has_to_fit_the_name_not_the_address(
    open_downloads: Callable[..., Downloads], authority: trustme.CA
) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with serving({"/": image()}, tls=tls_for(authority, "good.example")) as server:
        downloads = open_downloads(resolve=lambda *_: ["127.0.0.1"], trust=trust)
        assert downloads.get(f"https://good.example:{server.port}/a") == JPEG
        error = failed(downloads, f"https://bad.example:{server.port}/a")
        assert (error.reason, error.fault) == ("certificate", "item")
        assert "bad.example" in error.detail
        assert failed(open_downloads(), f"https://localhost:{server.port}/a").reason == "certificate"
        assert server.asked == {"/a": 1}


def test_without_the_library_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cfbus.sources.fetching", raising=False)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(SourceError, match=r"pip install 'cfbus\[remote\]'"):
        Downloads(Downloading())
