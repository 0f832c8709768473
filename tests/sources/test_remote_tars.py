"""Tars behind addresses: listed in order, read by blocks, never mixed; over http and from a real S3 server."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from sources.remote_rig import Bucket, Ranged, s3_environment, s3_server
from sources.tar_rig import contents, items, make_tar
from sources.web_rig import Page, WebServer, serving, status

from cfbus.config_downloads import Downloading
from cfbus.errors import SourceError
from cfbus.sources import remote_files
from cfbus.sources.base import ListedShard, NothingKnown, ReadError
from cfbus.sources.remote_files import RemoteFiles
from cfbus.sources.tars import TarSource

NOTHING = NothingKnown()


OPENED: list[TarSource | RemoteFiles] = []


@pytest.fixture(autouse=True)
def _quick_and_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote_files, "pause_before", lambda attempt: 0.0)
    yield
    while OPENED:
        OPENED.pop().close()


def tar(tmp_path: Path, name: str, count: int = 3, mode: str = "w", size: int = 100) -> bytes:
    files = []
    for n in range(count):
        files += [(f"{name}/{n:03d}.jpg", b"%s %03d|" % (name.encode(), n) * size), (f"{name}/{n:03d}.txt", b"t%d" % n)]
    return make_tar(tmp_path / "made.tar", files, mode).read_bytes()


def source(*patterns: Path | str) -> TarSource:
    OPENED.append(one := TarSource(patterns, remote=RemoteFiles(Downloading(attempts=2))))
    return one


def opened(**settings: Any) -> RemoteFiles:
    OPENED.append(one := RemoteFiles(Downloading(**settings)))
    return one


def listed(one: TarSource) -> list[ListedShard]:
    return list(one.shards(NOTHING))


def left(one: TarSource) -> list[tuple[str, str]]:
    return [(each.path, each.reason) for each in one.left_out.things if each.grave]


def url(web: WebServer, path: str) -> str:
    return f"http://127.0.0.1:{web.port}/{path}"


@pytest.mark.parametrize("packed", [False, True])
def test_tars_over_http_are_listed_in_order_and_read_back(tmp_path: Path, packed: bool) -> None:
    mode = "w:gz" if packed else "w"
    pages = {f"/set/s-{n:02d}.tar": Ranged(tar(tmp_path, f"s{n}", 20, mode, 1000)) for n in range(12)}
    with serving(pages) as web:
        one = source(url(web, "set/s-{00..12}.tar?token=secret"))
        shards = listed(one)
        assert [shard.name for shard in shards] == [f"set/s-{n:02d}.tar" for n in range(12)]
        assert shards[11].keys == [f"s11/{n:03d}" for n in range(20)]
        for page in pages.values():
            page.asked.clear()
        found = contents(one, shards[7])
        assert [each.data for each in found] == [b"s7 %03d|" % n * 1000 for n in range(20)]
        assert found[3].columns == {"txt": "t3"}
        assert len(pages["/set/s-07.tar"].asked) == 2, "one request opens it, one brings its block"
        with ThreadPoolExecutor(8) as pool:
            again = list(pool.map(lambda item: one.read(shards[5].name, item).data, items(shards[5])))
        assert again == [b"s5 %03d|" % n * 1000 for n in range(20)]
        assert len(pages["/set/s-05.tar"].asked) == 2
        missing = url(web, "set/s-12.tar?…")
        assert left(one) == [(missing, "cannot be read: The server answered with 404")]
        assert one.out_of_reach() == ""
        assert one.readers == 16
        one.close()


def test_a_large_tar_is_listed_by_its_headers(tmp_path: Path) -> None:
    page = Ranged(tar(tmp_path, "s", 8, size=1 << 17))
    with serving({"/": page}) as web:
        (shard,) = listed(source(url(web, "s.tar")))
        assert len(shard.keys) == 8
        asked = sum(min(last, len(page.data)) - begin for begin, last in page.asked)
        assert asked < len(page.data) / 4, "members of a megabyte are passed over, not read"


@pytest.mark.parametrize("packed", [False, True])
def test_a_stream_that_is_cut_is_never_an_end(tmp_path: Path, packed: bool) -> None:
    page = Ranged(tar(tmp_path, "s", 8, "w:gz" if packed else "w", size=1 << 17))
    with serving({"/": page}) as web:
        one = source(url(web, "s.tar"))
        page.cut = 10**6
        with pytest.raises(SourceError):
            listed(one)
        assert "not whole" in left(one)[0][1]
        page.cut = 1
        (shard,) = listed(one)
        assert len(shard.keys) == 8
        page.cut = 10**6
        with pytest.raises(ReadError) as caught:
            one.read(shard.name, items(shard)[5])
        assert caught.value.fault == "network"
        page.cut = 1
        assert len(one.read(shard.name, items(shard)[5]).data) == 6 << 17
        one.close()


def test_a_tar_that_ends_early_on_its_server_is_left_out(tmp_path: Path) -> None:
    whole = tar(tmp_path, "s", 3)
    with serving({"/": Ranged(whole[: len(whole) // 2])}) as web:
        one = source(url(web, "s.tar"))
        with pytest.raises(SourceError):
            listed(one)
        assert "it is cut off" in left(one)[0][1]


@pytest.mark.parametrize("packed", [False, True])
def test_an_object_that_is_replaced_is_reported_and_nothing_is_mixed(tmp_path: Path, packed: bool) -> None:
    mode = "w:gz" if packed else "w"
    before, after = tar(tmp_path, "s", 3, mode), tar(tmp_path, "s", 3, mode)
    page = Ranged(before, etag='"before"')
    with serving({"/": page}) as web:
        one = source(url(web, "s.tar"))
        (shard,) = listed(one)
        assert one.read(shard.name, items(shard)[0]).data
        page.data, page.etag = after, '"after"'
        late = source(url(web, "s.tar"))
        for reader in (one, late):
            if reader is one:
                reader._files._blocks._blocks.clear()  # as if they had been dropped for others
                reader._files._answers.clear() if packed else None
            for _ in range(2):
                with pytest.raises(ReadError) as caught:
                    reader.read(shard.name, items(shard)[1])
                assert caught.value.reason.value == "changed"
        page.data, page.etag = before, '"before"'
        fresh = source(url(web, "s.tar"))
        assert fresh.read(shard.name, items(shard)[1]).data == b"s 001|" * 100


def test_a_broken_server_does_not_keep_the_others_from_being_listed(tmp_path: Path) -> None:
    pages: dict[str, Page] = {
        "/a.tar": Ranged(tar(tmp_path, "a")),
        "/b.tar": status(500),
        "/c.tar": status(200, b"<html>"),
    }
    with serving(pages) as web:
        one = source(url(web, "{a,b,c}.tar"), make_tar(tmp_path / "l" / "d.tar", [("k.jpg", b"local")]))
        assert [shard.name for shard in listed(one)] == ["l/d.tar", "127.0.0.1/a.tar"]
        assert [reason.rpartition(": ")[2] for _, reason in left(one)] == [
            "The server answered with 500",
            "The server ignores Range and sends the whole file; download it, or ask one that knows ranges",
        ]
        assert "500" in source(url(web, "b.tar")).out_of_reach()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://u:secret@h.example/*.tar?t=secret", "a web server cannot say what a star stands for"),
        ("https://h.example/set/?secret#/", "a web server does not say which tars it has"),
        ("ftp://h.example/a.tar", "none of the addresses"),
        ("gs://bucket/a.tar", "none of the addresses"),
        ("pipe://curl", "none of the addresses"),
        ("https://h.example/{0..99999999}.tar?secret", "more than"),
        ("https://h.example/{0..,3.tar?secret", "braces"),
    ],
)
def test_addresses_that_make_no_sense(address: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        listed(source(address))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_addresses_of_one_name_and_roots_of_one_name(tmp_path: Path) -> None:
    pages = {"/": Ranged(tar(tmp_path, "a"))}
    with serving(pages) as web:
        one = source(url(web, "x/d/a.tar"), url(web, "y/d/a.tar"), url(web, "x/d/a.tar?v=2"), url(web, "a{0,1}/b.tar"))
        names = [shard.name for shard in listed(one)]
        assert names == ["d/a.tar", "d.2/a.tar", "127.0.0.1/a0/b.tar", "127.0.0.1/a1/b.tar"]
        assert [reason for _, reason in left(one)] == ["another address has its name"]


@pytest.mark.parametrize(
    ("address", "module"), [("http://127.0.0.1:1/a.tar", "httpx2"), ("s3://bucket/a.tar", "obstore")]
)
def test_without_the_library_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, module: str
) -> None:
    import sys

    for name in ("cfbus.sources.fetching", "obstore.exceptions", "obstore.store", module):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError) as caught:
        listed(source(address))
    assert f"{module}, which is not installed" in str(caught.value)
    assert module in source(address).out_of_reach()


# -- S3


@pytest.fixture(name="endpoint", scope="module")
def _endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(name="bucket")
def _bucket(endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    import urllib.request

    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).close()
    return Bucket(endpoint, name)


def test_tars_in_s3_are_listed_by_star_folder_and_braces_and_read_back(tmp_path: Path, bucket: Bucket) -> None:
    for n in range(3):
        bucket.put(f"sets/a b/s-{n}.tar", tar(tmp_path, f"s{n}"))
    bucket.put("sets/a b/deep/x.tar.gz", tar(tmp_path, "x", mode="w:gz"))
    bucket.put("sets/a b/notes.txt", b"?")
    here = f"s3://{bucket.name}/sets"
    for pattern, names in {
        f"{here}/a b/s-*.tar": ["a_b/s-0.tar", "a_b/s-1.tar", "a_b/s-2.tar"],
        f"{here}/a b/": ["a_b/deep/x.tar.gz", "a_b/s-0.tar", "a_b/s-1.tar", "a_b/s-2.tar"],
        f"{here}/a b/s-{{1..2}}.tar": ["a_b/s-1.tar", "a_b/s-2.tar"],
        f"{here}/**/x.*": ["sets/a b/deep/x.tar.gz"],
    }.items():
        one = source(pattern)
        shards = listed(one)
        assert [shard.name for shard in shards] == names
        for shard in shards:
            begin = shard.keys[0].partition("/")[0].encode()
            assert [each.data for each in contents(one, shard)] == [b"%s %03d|" % (begin, n) * 100 for n in range(3)]
        one.close()


def test_an_object_of_s3_that_is_replaced_is_reported(tmp_path: Path, bucket: Bucket) -> None:
    bucket.put("s.tar", tar(tmp_path, "s"))
    address = f"s3://{bucket.name}/s.tar"
    one = source(address)
    (shard,) = listed(one)
    file = opened().open(address)
    bucket.put("s.tar", tar(tmp_path, "t"))
    for read in (lambda: file.read(100, 5), lambda: one.read(shard.name, items(shard)[0])):
        with pytest.raises(ReadError) as caught:
            read()
        assert caught.value.reason.value == "changed"


def test_what_s3_refuses_is_told_without_secrets(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    files = opened(attempts=1)
    for address, reason in {
        f"s3://{bucket.name}/none.tar": "http-404",
        "s3://no-such-bucket/a.tar": "http-404",
        f"s3://{bucket.name}": "bad-url",
    }.items():
        with pytest.raises(ReadError) as caught:
            files.open(address)
        assert (caught.value.reason.value, caught.value.fault) == (reason, "item")
        assert "the-" not in caught.value.detail
    bucket.put("empty.tar", b"")
    assert files.open(f"s3://{bucket.name}/empty.tar").size == 0
    with pytest.raises(SourceError, match="404"):
        listed(source("s3://no-such-bucket/*.tar"))


@pytest.mark.parametrize(
    ("code", "reason", "fault"),
    [(403, "http-403", "worker"), (503, "http-503", "network"), (301, "bad-answer", "worker")],
)
def test_what_s3_servers_answer(monkeypatch: pytest.MonkeyPatch, code: int, reason: str, fault: str) -> None:
    with serving({"/": status(code, b"<Error><Message>the-secret</Message></Error>")}) as web:
        for name, value in s3_environment(f"http://127.0.0.1:{web.port}").items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ReadError) as caught:
            opened(attempts=2).open("s3://bucket/a.tar")
        assert (caught.value.reason.value, caught.value.fault) == (reason, fault)
        assert "the-" not in caught.value.detail
        assert web.asked["/bucket/a.tar"] == (2 if fault == "network" else 1)


def test_s3_checks_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with serving({"/bucket/a": Ranged(b"x" * 100)}, tls=context) as web:
        for name, value in s3_environment(f"https://127.0.0.1:{web.port}").items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ReadError) as caught:
            opened(attempts=2).open("s3://bucket/a.tar")
        assert (caught.value.reason.value, caught.value.fault) == ("certificate", "worker")
        assert not web.asked


def test_s3_that_cuts_ignores_ranges_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Ranged(b"x" * 10_000)
    with serving({"/bucket/a": page, "/bucket/b": status(200, b"x" * 10_000, ETag='"e"')}) as web:
        for name, value in s3_environment(f"http://127.0.0.1:{web.port}").items():
            monkeypatch.setenv(name, value)
        files = opened(attempts=2)
        file = files.open("s3://bucket/a.tar")
        page.cut = 1
        assert file.read(5, 1000) == b"x" * 1000
        page.cut = 2
        with pytest.raises(ReadError) as caught:
            file.read(5, 1000)
        assert caught.value.fault == "network"
        with pytest.raises(ReadError) as caught:
            files.open("s3://bucket/b.tar", 10)
        assert caught.value.fault in ("worker", "network")
    with pytest.raises(ReadError) as caught:
        opened(attempts=1, timeout_seconds=1).open("s3://bucket/a.tar")
    assert (caught.value.reason.value, caught.value.fault) == ("connection-failed", "network")
    assert not {name for name in os.environ if name.startswith("AWS_PROFILE")}
