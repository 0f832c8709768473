"""Indexes beside remote tars: used when they leave no room for more, else the tar is walked."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources.remote_rig import Ranged
from sources.tar_rig import contents, items, make_tar
from sources.web_rig import Page, serving

from cfbus.config_downloads import Downloading
from cfbus.sources import remote_files
from cfbus.sources.base import ListedShard, NothingKnown, ReadError
from cfbus.sources.remote_files import RemoteFiles
from cfbus.sources.tars import TarSource

FILES = [
    (f"d/{n:02d}.{end}", b"%d %s" % (n, end.encode()) * 300)
    for n in range(30)
    for end in ("JPG" if n == 3 else "jpg", "txt")
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "pause_before", lambda attempt: 0.0)


def dali(tar: bytes) -> bytes:
    """As DALI's wds2idx writes it."""
    samples: dict[str, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            key, _, end = member.name.partition(".")
            samples.setdefault(key, []).append(f"{end} {member.offset_data} {member.size} {member.name}")
    return "\n".join([f"v1.2 {len(samples)}", *map(" ".join, samples.values()), ""]).encode()


def webshart(tar: bytes) -> bytes:
    """As webshart's extract_metadata writes it, in its order."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        files = {each.name: {"path": each.name, "offset": each.offset_data, "length": each.size} for each in opened}
    found = {"path": "s.tar", "filesize": len(tar), "files": dict(reversed(files.items()))}
    return json.dumps(found | {"includes_image_geometry": False}).encode()


class Set:
    """A tar on a server, with an index."""

    def __init__(self, tar: bytes, ending: str, index: bytes) -> None:
        self.tar, self.index = Ranged(tar), Ranged(index)
        self.pages: dict[str, Page] = {"/set/s.tar": self.tar, f"/set/s{ending}": self.index}

    def listed(self) -> Iterator[tuple[TarSource, ListedShard]]:
        with serving(self.pages) as web:
            source = TarSource([f"http://127.0.0.1:{web.port}/set/s.tar"], remote=RemoteFiles(Downloading(attempts=1)))
            (shard,) = source.shards(NothingKnown())
            yield source, shard
            source.close()

    @property
    def was_used(self) -> bool:
        """Whether the tar was not walked: asked for its beginning and its end only."""
        return len(self.tar.asked) <= 2


@pytest.mark.parametrize(("ending", "write"), [(".idx", dali), (".json", webshart)])
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_an_index_saves_the_walk(tmp_path: Path, ending: str, write: object, kind: int) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=kind) as made:
        for name, data in FILES:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data) * 40, 1.5 if kind == tarfile.PAX_FORMAT else 1
            made.addfile(info, io.BytesIO(data * 40))
    tar = path.read_bytes()
    one = Set(tar, ending, write(tar))  # type: ignore[operator]
    for source, shard in one.listed():
        assert one.was_used
        assert shard.keys == [f"d/{n:02d}" for n in range(30)]
        found = contents(source, shard)
        assert [each.data for each in found] == [data * 40 for name, data in FILES if name.lower().endswith("jpg")]
        assert found[7].columns == {"txt": (b"7 txt" * 300 * 40).decode()}


def walked(tmp_path: Path, tar: bytes, ending: str, index: bytes) -> bool:
    """Whether the index was not used; what is listed is right all the same."""
    one = Set(tar, ending, index)
    for source, shard in one.listed():
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            names = {each.name.partition(".")[0] for each in opened}
        assert set(shard.keys) == names
        assert len(contents(source, shard)) == len(names)
    return not one.was_used


@pytest.mark.parametrize(("ending", "write"), [(".idx", dali), (".json", webshart)])
def test_an_index_that_names_less_than_there_is_is_not_used(tmp_path: Path, ending: str, write: object) -> None:
    big = [(name, data * 40) for name, data in FILES]
    tar = make_tar(tmp_path / "s.tar", big).read_bytes()
    for some in (big[:-2], big[2:], big[:20] + big[22:]):
        older = make_tar(tmp_path / "old.tar", some).read_bytes()
        index = write(older)  # type: ignore[operator]
        if ending == ".json":
            index = index.replace(str(len(older)).encode(), str(len(tar)).encode())
        if some == big[:20] + big[22:]:
            lines = write(tar).decode()  # type: ignore[operator]
            if ending == ".idx":
                kept = [line for line in lines.splitlines() if "d/10." not in line]
                index = "\n".join([f"v1.2 {len(kept) - 1}", *kept[1:], ""]).encode()
            else:
                said = json.loads(lines)
                said["files"] = {name: each for name, each in said["files"].items() if "d/10." not in name}
                index = json.dumps(said).encode()
        assert walked(tmp_path, tar, ending, index)


def test_an_index_that_lacks_a_small_sample_at_the_end_is_not_used(tmp_path: Path) -> None:
    big = [(name, data * 40) for name, data in FILES]
    tar = make_tar(tmp_path / "s.tar", [*big, ("d/last.jpg", b"small")]).read_bytes()
    older = make_tar(tmp_path / "old.tar", big).read_bytes()
    assert walked(tmp_path, tar, ".idx", dali(older))


@pytest.mark.parametrize(
    ("ending", "index"),
    [
        (".idx", b""), (".idx", b"\0" * 800), (".idx", b"v1.2 1\njpg 512 x a.jpg\n"), (".idx", b"v1.2 9\n"),
        (".idx", b"v1.2 1\njpg 512 -5 a.jpg\n"), (".json", b"[" * 100_000), (".json", b"{}"),
        (".json", b'{"files": 3}'),
        (".json", b'{"title": "of a sample"}'), (".json", b"\xff"),
    ],
)  # fmt: skip
def test_an_index_that_is_none_is_not_used(tmp_path: Path, ending: str, index: bytes) -> None:
    tar = make_tar(tmp_path / "s.tar", [(name, data * 40) for name, data in FILES]).read_bytes()
    assert walked(tmp_path, tar, ending, index)


def test_an_index_that_lies_about_names_or_sizes_gives_nothing(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "s.tar", [(name, data * 40) for name, data in FILES]).read_bytes()
    index = (
        dali(tar)
        .replace(b"d/05.", b"d/5x.")
        .replace(b" d/06.jpg", b" d/06.png")
        .replace(b"jpg 512 60000", b"jpg 512 59999")
    )
    one = Set(tar, ".idx", index)
    for source, shard in one.listed():
        assert one.was_used
        for number, item in enumerate(items(shard)):
            if number not in (0, 5, 6):
                assert source.read(shard.name, item).data
                continue
            with pytest.raises(ReadError) as caught:
                source.read(shard.name, item)
            assert caught.value.reason.value == "changed"
