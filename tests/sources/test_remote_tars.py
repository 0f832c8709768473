"""Tars behind http:// and s3://, on servers of the test's own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store
from processes.support import free_port, until
from range_server import Files, serving

from cfbus.config_dataset import Dataset
from cfbus.errors import SourceError
from cfbus.sources import remote_files
from cfbus.sources.base import Content, Item, ListedShard, NothingKnown, ReadError, ReadReason, Source
from cfbus.sources.opening import open_source
from cfbus.sources.remote_files import shown_address


def tar_of(label: str, count: int = 6, size: int = 3_000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(count):
            for suffix, data in (("jpg", picture(label, number, size)), ("txt", f"{label} {number}".encode())):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def picture(label: str, number: int, size: int = 3_000) -> bytes:
    return f"{label}-{number}-".encode().ljust(size, b"x")


def source_of(*paths: str, **keys: Any) -> Source:
    return open_source(Dataset(paths=paths, source="webdataset", **keys))


def listed(source: Source) -> list[ListedShard]:
    return list(source.shards(NothingKnown()))


def content(source: Source, shard: ListedShard, index: int) -> Content:
    return source.read(shard.name, Item(index, shard.keys[index], shard.locators[index]))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setattr(remote_files, "_RETRIES", {"max_retries": 1})
    with serving({f"/set/train-{n}.tar": tar_of(f"t{n}") for n in range(3)}) as served:
        yield served


def test_braces_name_tars_and_samples_come_whole(web: Files) -> None:
    source = source_of(f"{web.url}/set/train-{{0..2}}.tar")
    shards = listed(source)
    assert [shard.name for shard in shards] == [f"set/train-{n}.tar" for n in range(3)]
    for number, shard in enumerate(shards):
        for index in range(6):
            got = content(source, shard, index)
            assert (got.data, got.columns) == (picture(f"t{number}", index), {"txt": f"t{number} {index}"})
    source.close()


def test_neighbours_share_a_request(web: Files) -> None:
    lister = source_of(f"{web.url}/set/train-0.tar")
    (shard,) = listed(lister)
    web.asked.clear()
    worker = source_of(f"{web.url}/set/train-0.tar")
    for index in range(6):
        content(worker, shard, index)
    assert len(web.ranges("/set/train-0.tar")) == 1


def test_what_is_skipped_is_not_fetched(web: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "BLOCK_BYTES", 4096)
    web.files["/large.tar"] = tar_of("large", 4, 200_000)
    (shard,) = listed(source_of(f"{web.url}/large.tar"))
    got = sum(int(end) - int(start) + 1 for start, end in (r[6:].split("-") for r in web.ranges("/large.tar")))
    assert len(shard.keys) == 4
    assert got < len(web.files["/large.tar"]) / 4


def test_a_tar_that_was_replaced_between_listing_and_reading(web: Files) -> None:
    address = f"{web.url}/set/train-0.tar"
    (shard,) = listed(source_of(address))
    web.files["/set/train-0.tar"] = tar_of("other", 6, 2_000)
    with pytest.raises(ReadError) as caught:
        content(source_of(address), shard, 3)
    assert caught.value.reason == ReadReason.CHANGED


def test_a_tar_that_is_replaced_while_it_is_read(web: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "BLOCK_BYTES", 4096)
    source = source_of(f"{web.url}/set/train-0.tar")
    (shard,) = listed(source)
    reader = source_of(f"{web.url}/set/train-0.tar")
    assert content(reader, shard, 0).data == picture("t0", 0)
    web.files["/set/train-0.tar"] = tar_of("u0")  # as long, with the same headers
    with pytest.raises(ReadError) as caught:
        content(reader, shard, 4)
    assert caught.value.reason == ReadReason.CHANGED


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["cut"] * 9, "the connection was cut"),
        (["500"] * 9, "status 500"),
        (["whole"], "does not serve parts of files"),
        (["403"], "may not be read with these credentials"),
        (["404"], "does not exist"),
    ],
)
def test_what_a_server_may_do_to_a_worker(web: Files, wrong: list[str], said: str) -> None:
    (shard,) = listed(source_of(f"{web.url}/set/train-0.tar"))
    worker = source_of(f"{web.url}/set/train-0.tar")
    web.wrong["/set/train-0.tar"] = list(wrong)
    with pytest.raises(ReadError, match=said) as caught:
        content(worker, shard, 3)
    assert caught.value.fault == "network"
    web.wrong.clear()
    assert content(worker, shard, 3).data == picture("t0", 3)


def test_a_stream_that_is_cut_once_is_read_again(web: Files) -> None:
    (shard,) = listed(source_of(f"{web.url}/set/train-0.tar"))
    web.wrong["/set/train-0.tar"] = ["cut"]
    assert content(source_of(f"{web.url}/set/train-0.tar"), shard, 3).data == picture("t0", 3)


def test_a_tar_that_is_cut_off_or_missing_is_left_out(web: Files) -> None:
    web.files["/set/train-1.tar"] = web.files["/set/train-1.tar"][:12_000]
    del web.files["/set/train-2.tar"]
    source = source_of(f"{web.url}/set/train-{{0..2}}.tar")
    assert [shard.name for shard in listed(source)] == ["set/train-0.tar"]
    cut, missing = (thing.reason for thing in source.left_out.things)
    assert "cut off" in cut
    assert "does not exist" in missing
    assert source.left_out.grave == 2


def test_packed_tars_are_for_disks(web: Files) -> None:
    import gzip

    web.files["/set/train-0.tar"] = gzip.compress(web.files["/set/train-0.tar"])
    source = source_of(f"{web.url}/set/train-{{0..1}}.tar")
    assert len(listed(source)) == 1
    assert "read from disks only" in source.left_out.things[0].reason


@pytest.mark.parametrize("address", ["pipe:cat", "file:///etc/passwd", "ftp://host/a.tar", "gopher://x/a.tar"])
def test_other_schemes_are_refused(address: str) -> None:
    with pytest.raises(SourceError):
        listed(source_of(address))


def test_a_star_needs_something_that_lists(web: Files) -> None:
    with pytest.raises(SourceError, match="a web server lists nothing"):
        listed(source_of(f"{web.url}/set/*.tar"))


def test_passwords_and_signatures_are_refused_and_never_shown() -> None:
    for address in ("https://ada:secret@host/a.tar", "https://host/a.tar?X-Sig=secret"):
        with pytest.raises(SourceError) as caught:
            source_of(address)
        assert "secret" not in str(caught.value)
    assert shown_address("https://ada:secret@host:99/a%20b.tar?X=secret") == "https://host:99/a b.tar"


def test_nobody_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "_RETRIES", {"max_retries": 0})
    source = source_of(f"http://127.0.0.1:{free_port()}/a.tar")
    with pytest.raises(SourceError, match="nobody answers there"):
        listed(source)
    assert "no tar is here" in source.out_of_reach()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of moto's server, in a process of its own."""
    port = free_port()
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    server = subprocess.Popen([sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except OSError:
            return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ALLOW_HTTP", "true")
        try:
            until("moto answers", answers)
            request = urllib.request.Request(f"{url}/pictures", method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            store = S3Store("pictures", client_options={"allow_http": True})
            for number in range(2):
                obstore.put(store, f"set/train-{number}.tar", tar_of(f"s{number}"))
            obstore.put(store, "set/readme.txt", b"hello")
            yield "s3://pictures"
        finally:
            server.kill()
            server.wait()
            log.close()


def test_a_bucket_by_stars_and_braces(s3: str) -> None:
    for pattern in (f"{s3}/set/*.tar", f"{s3}/set/train-{{0,1}}.tar"):
        source = source_of(pattern)
        shards = listed(source)
        assert [shard.name for shard in shards] == ["set/train-0.tar", "set/train-1.tar"]
        assert content(source, shards[1], 4).data == picture("s1", 4)


def test_an_object_that_is_put_anew_is_noticed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "BLOCK_BYTES", 4096)
    store = S3Store("pictures", client_options={"allow_http": True})
    obstore.put(store, "other/a.tar", tar_of("a"))
    source = source_of(f"{s3}/other/a.tar")
    (shard,) = listed(source)
    reader = source_of(f"{s3}/other/a.tar")
    assert content(reader, shard, 0).data == picture("a", 0)
    obstore.put(store, "other/a.tar", tar_of("b"))
    with pytest.raises(ReadError) as caught:
        content(reader, shard, 5)
    assert caught.value.reason == ReadReason.CHANGED


def test_an_empty_prefix_and_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(SourceError, match="no tar with images was found"):
        listed(source_of(f"{s3}/nothing/*.tar"))
    with pytest.raises(SourceError):
        listed(source_of("s3://nowhere-at-all/*.tar"))


def test_the_environment_is_not_needed_to_import(tmp_path: Path) -> None:
    code = "import sys, cfbus.sources.opening; assert 'obstore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ)
