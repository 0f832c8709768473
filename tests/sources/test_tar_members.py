"""Tars as they are found: by many writers, cut, lying, huge, hostile."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import os
import subprocess
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbus.sources import tar_members
from cfbus.sources.tar_members import BLOCK, BadTarError, Member, members

END = bytes(2 * BLOCK)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header block with any size, negative and absurd ones too."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    octal = size < 0 or size >= 8**11
    block[124:136] = (
        ((1 << 95 if size >= 0 else 0) + size % (1 << 96)).to_bytes(12, "big") if octal else b"%011o\0" % size
    )
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def written(path: Path, files: dict[str, bytes], format_: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format_) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read_back(path: Path) -> dict[bytes, bytes]:
    """What lies where the walk says, by plain reading."""
    raw = path.read_bytes()
    data = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    found = {}
    for member in members(path):
        assert zlib.crc32(data[member.offset - BLOCK : member.offset]) == member.header_crc
        if not member.kind:
            found[member.name] = data[member.offset : member.offset + member.size]
    return found


def why(path: Path) -> str:
    with pytest.raises(BadTarError) as caught:
        list(members(path))
    return str(caught.value)


# -- tars of all writers

FILES = {
    "a.jpg": b"first", "empty.txt": b"", "deep/er/b.png": b"x" * 512, "n" * 90 + ".jpg": b"y" * 513,
    "d" * 120 + "/" + "e" * 120 + ".jpg": b"long", "\u5199\u771f.jpg": b"wide", "dot.d/c.JPG": b"z" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_formats_of_python_are_read(tmp_path: Path, format_: int) -> None:
    longest = 256 if format_ == tarfile.USTAR_FORMAT else 1000
    files = {name: data for name, data in FILES.items() if len(name) <= longest - 21}
    assert read_back(written(tmp_path / "x.tar", files, format_)) == {n.encode(): data for n, data in files.items()}


@pytest.mark.parametrize("flags", [["--format=v7"], ["--format=ustar"], ["--format=gnu"], ["--format=pax"], ["-z"]])
def test_what_tar_writes_is_read(tmp_path: Path, flags: list[str]) -> None:
    folder = tmp_path / "f"
    files = {name: data for name, data in FILES.items() if len(name) < 90}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / b"odd\xff.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"odd")
    (folder / "link.jpg").symlink_to("a.jpg")
    os.link(folder / "a.jpg", folder / "zz.jpg")
    pipes = {} if flags == ["--format=v7"] else {b"./pipe.jpg": "a pipe"}
    if pipes:
        os.mkfifo(folder / "pipe.jpg")
    path = tmp_path / "x.tar"
    subprocess.run(["tar", *flags, "--sort=name", "-cf", path, "-C", folder, "."], check=True)
    wanted = {b"./" + name.encode(): data for name, data in files.items()} | {b"./odd\xff.jpg": b"odd"}
    assert read_back(path) == wanted
    odd = {member.name: member.kind for member in members(path) if member.kind}
    assert odd == {b"./link.jpg": "a link", b"./zz.jpg": "a link"} | pipes


def test_sparse_files_are_told_from_plain_ones(tmp_path: Path) -> None:
    with (tmp_path / "s.jpg").open("wb") as file:
        file.truncate(10_000_000)
        file.seek(5_000_000)
        file.write(b"in the middle")
    for flags in (["--format=gnu"], ["--format=pax"]):
        path = tmp_path / "x.tar"
        subprocess.run(["tar", *flags, "-S", "-cf", path, "-C", tmp_path, "s.jpg"], check=True)
        assert [member.kind for member in members(path)] == ["a sparse file"]


def test_a_lone_end_block_and_what_follows_the_end_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.jpg", 5) + padded(b"bytes") + END[:BLOCK])
    assert read_back(path) == {b"a.jpg": b"bytes"}
    path.write_bytes(header("a.jpg", 5) + padded(b"bytes") + END + b"what is this")
    assert read_back(path) == {b"a.jpg": b"bytes"}


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=8),
    format_=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60),
    packed=st.booleans(),
)
def test_anything_written_is_found(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], format_: int, name: str, packed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tar"
    files = {f"{n}{name.rstrip('/')}.jpg": bytes([n]) * size for n, size in enumerate(sizes)}
    written(path, files, format_ if len(name.encode()) < 80 else tarfile.PAX_FORMAT)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_back(path) == {key.encode(): data for key, data in files.items()}


# -- tars that cannot be trusted


def test_a_tar_that_is_cut_anywhere_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.tar", {"a.jpg": b"1" * 700, "b" * 200 + ".jpg": b"2" * 100}).read_bytes()
    path = tmp_path / "cut.tar"
    end = whole.index(END, whole.index(b"2" * 100) + 100)
    end += -end % BLOCK
    for size in [*range(0, end + BLOCK, 64), *range(end - 2, end + BLOCK)]:
        path.write_bytes(whole[:size])
        assert why(path), size
    path.write_bytes(whole[: end + BLOCK])
    assert len(list(members(path))) == 2
    packed = gzip.compress(whole)
    for size in range(1, len(packed) - 8, 7):
        path.write_bytes(packed[:size])
        with contextlib.suppress(BadTarError):
            assert len(list(members(path))) == 2, size  # the end mark came before the cut


def test_cut_inside_a_member_says_where(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.jpg", 5000) + b"only this")
    assert why(path) == "it is cut off, or lies: a.jpg would end at byte 5512, beyond its end"
    path.write_bytes(header("a.jpg", 4) + padded(b"four"))
    assert why(path) == "it is cut off: it ends at byte 1024 without an end mark"


@pytest.mark.parametrize("size", [-1, -512, -513, -(10**6), -(1 << 90)])
def test_a_size_that_leads_backwards_ends_the_walk(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.jpg", 4) + padded(b"four") + header("b.jpg", size) + END)
    assert why(path)


@pytest.mark.parametrize("size", [3, 1100, 1 << 40, 1 << 62, 1 << 90])
def test_a_size_that_lies_is_noticed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.jpg", size) + padded(b"7" * 600) + header("b.jpg", 3) + padded(b"two") + END)
    assert why(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [1 << 21, 1 << 33, -5])
def test_an_extended_header_of_any_size_costs_no_memory(tmp_path: Path, kind: bytes, size: int) -> None:
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(header("x", size, kind))
        file.truncate(1 << 34)  # sparse: takes no room
    tracemalloc.start()
    said = why(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "1024 KiB" in said or size < 0
    assert peak < 8 << 20


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_without_end_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "x.tar"
    body = b"14 path=a.jpg\n" if kind == tarfile.XHDTYPE else b"a.jpg\0"
    path.write_bytes((header("x", len(body), kind) + padded(body)) * 5000 + END)
    assert why(path)


def test_garbage_between_members_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.jpg", 4) + padded(b"four") + padded(b"garbage") + header("b.jpg", 0) + END)
    assert why(path) == "it is damaged: there is no header at byte 1024"


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=3000), at=st.integers(0, 3000))
def test_garbage_never_gets_out(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.tar"
    whole = bytearray(header("a.jpg", 600) + padded(b"a" * 600) + header("b.jpg", 3) + padded(b"bbb") + END)
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    last = 0
    with contextlib.suppress(BadTarError):
        for member in members(path):
            assert last < member.offset
            assert member.offset + member.size <= len(whole)
            last = member.offset


@pytest.mark.parametrize(
    ("start", "name"),
    [(bz2.compress(b"x"), "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\3\4", "zip")],
)
def test_other_packers_are_named(tmp_path: Path, start: bytes, name: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(start + bytes(100))
    assert f"packed by {name}" in why(path)


def test_what_is_no_tar_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"")
    assert why(path) == "it is empty"
    path.write_bytes(b"<html>not found</html>" * 100)
    assert why(path).startswith("it is damaged: ")
    path.write_bytes(b"\x1f\x8bno gzip at all")
    assert "gzip" in why(path)


def test_a_gigabyte_of_zeros_is_an_empty_tar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    assert list(members(path)) == []


def test_a_tar_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "GZIP_FREE_BYTES", 1 << 20)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(header("a.jpg", 50 << 20) + bytes(50 << 20) + END))
    assert why(path) == "it unpacks to more than 64 times its size, at a.jpg"


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MAX_MEMBERS", 100)
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.jpg", 0) * 101 + END)
    assert why(path) == "it has more than 100 members"
    path.write_bytes(header("a.jpg", 0) * 100 + END)
    assert len(list(members(path))) == 100


def test_a_walk_of_many_members_keeps_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.jpg", 0) * 20_000 + END)
    tracemalloc.start()
    count = sum(1 for _ in members(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 4 << 20


def test_folders_are_no_members(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("d.jpg/", 0, tarfile.DIRTYPE) + header("a.jpg", 0) + END)
    assert list(members(path)) == [Member(b"a.jpg", 1024, 0, zlib.crc32(header("a.jpg", 0)), "")]
