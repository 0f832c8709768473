"""The source of tars: listing, reading back, changing under one's feet, lying locators."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sources.tar_rig import contents, items, make_tar

from cfbus.errors import SourceError
from cfbus.sources import tar_files, tar_members, tars
from cfbus.sources.base import Item, ListedShard, NothingKnown, ReadError, ReadReason, Source
from cfbus.sources.tar_members import BLOCK
from cfbus.sources.tar_samples import Locator, Part
from cfbus.sources.tars import TarSource

NOTHING = NothingKnown()


class Listed(NothingKnown):
    def __init__(self, *names: str) -> None:
        self.names = names

    def lists(self, shard: str) -> bool:
        return shard in self.names


def sample(key: str, data: bytes = b"", **columns: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", data or key.encode()), *((f"{key}.{name}", text.encode()) for name, text in columns.items())]


def refused(source: Source, shard: str, locator: bytes) -> tuple[str, str]:
    with pytest.raises(ReadError) as caught:
        source.read(shard, Item(0, "key", locator))
    assert caught.value.detail.endswith(".")
    return caught.value.reason.value, caught.value.fault


@pytest.mark.parametrize("packed", [False, True])
def test_samples_are_listed_and_read_back_with_their_columns(tmp_path: Path, packed: bool) -> None:
    meta = json.dumps({"title": "a b", "width": 3, "tags": ["x"]})
    files = [
        *sample("0/a", txt="one", cls="7", json=meta),
        *sample("0/b"),
        ("0/c.json", b"{}"),
        *sample("0/d", npy="?"),
    ]
    path = make_tar(tmp_path / "d" / "s.tar", files, "w:gz" if packed else "w")
    source = TarSource([path])
    (shard,) = source.shards(NOTHING)
    assert (shard.name, shard.keys) == ("d/s.tar", ["0/a", "0/b", "0/d"])
    found = contents(source, shard)
    assert [content.data for content in found] == [b"0/a", b"0/b", b"0/d"]
    assert found[0].columns == {"txt": "one", "cls": "7", "title": "a b", "width": 3, "tags": ["x"]}
    assert found[1].columns == found[2].columns == {}
    assert [(thing.reason, thing.grave) for thing in source.left_out.things] == [
        ("1 of its samples have no image", False)
    ]
    assert contents(source, shard)[::-1] == [source.read(shard.name, item) for item in items(shard)[::-1]]
    source.close()


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    program = """
import sys, warnings
warnings.simplefilter("ignore")
import webdataset as wds
with wds.ShardWriter(sys.argv[1] + "/s-%04d.tar", maxcount=3, verbose=0) as writer:
    for n in range(7):
        writer.write({"__key__": f"k{n}", "jpg": b"image %d" % n, "json": {"n": n}, "cls": n, "txt": f"t{n}"})
with wds.TarWriter(sys.argv[1] + "/packed.tar.gz", compress=True) as writer:
    writer.write({"__key__": "k", "input.png": b"png", "txt": "t"})
"""
    import sys

    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True)
    source = TarSource([tmp_path / "s-{0000..0002}.tar", tmp_path / "packed.tar.gz"])
    shards = list(source.shards(NOTHING))
    assert [len(shard.keys) for shard in shards] == [3, 3, 1, 1]
    found = [content for shard in shards for content in contents(source, shard)]
    assert [content.data for content in found] == [*(b"image %d" % n for n in range(7)), b"png"]
    assert [dict(content.columns) for content in found[:7]] == [
        {"n": n, "cls": str(n), "txt": f"t{n}"} for n in range(7)
    ]


def test_what_is_listed_is_not_listed_again(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_tar(tmp_path / "d" / f"{name}.tar", sample(name))
    source = TarSource([tmp_path / "d"])
    assert [shard.name for shard in source.shards(Listed("d/b.tar"))] == ["d/a.tar", "d/c.tar"]
    assert list(source.shards(Listed("d/a.tar", "d/b.tar", "d/c.tar"))) == []


def test_one_bad_tar_does_not_hold_up_the_others(tmp_path: Path) -> None:
    root = tmp_path / "d"
    good = make_tar(root / "s-0.tar", sample("a"))
    (root / "s-1.tar").write_bytes(good.read_bytes()[:700])
    make_tar(root / "s-2.tar", [("a.json", b"{}"), ("b.json", b"{}")])
    (root / "s-4.tar").mkdir()
    source = TarSource([root / "s-{0..5}.tar"])
    (shard,) = source.shards(NOTHING)
    assert shard.name == "d/s-0.tar"
    said = {thing.path.rpartition("/")[2]: thing.reason for thing in source.left_out.things if thing.grave}
    assert said == {
        "s-1.tar": "it is cut off, or lies: a.jpg would end at byte 513, beyond its end",
        "s-2.tar": "no sample in it has an image",
        "s-3.tar": "there is no such file",
        "s-5.tar": "there is no such file",
    }
    (root / "s-1.tar").write_bytes(good.read_bytes())
    assert [shard.name for shard in source.shards(Listed("d/s-0.tar"))] == ["d/s-1.tar"]


def test_nothing_at_all_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no tar with images was found.*no such file"):
        list(TarSource([tmp_path / "s-{0..3}.tar"]).shards(NOTHING))
    with pytest.raises(SourceError, match="no tar with images") as caught:
        list(TarSource([tmp_path]).shards(NOTHING))
    assert "{0000..0099}" in caught.value.hint


def test_hostile_members_are_dead_letters_and_neighbours_are_not(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "d" / "s.tar",
        [*sample("a"), *sample("../../x"), *sample("big", b"x" * 2000), *sample("b", json="{"), *sample("c", txt="y")],
    )
    source = TarSource([path], max_file_bytes=1999)
    (shard,) = source.shards(NOTHING)
    said = {}
    for item in items(shard):
        try:
            source.read(shard.name, item)
        except ReadError as error:
            said[item.key] = (error.reason.value, error.fault)
    assert said == {"../../x": ("outside", "item"), "big": ("too-large-file", "item"), "b": ("bad-column", "item")}


def test_a_large_column_is_a_dead_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_COLUMN_BYTES", 10)
    source = TarSource([make_tar(tmp_path / "s.tar", [*sample("a", txt="x" * 10), *sample("b", txt="x" * 11)])])
    (shard,) = source.shards(NOTHING)
    assert source.read(shard.name, items(shard)[0]).columns == {"txt": "x" * 10}
    assert refused(source, shard.name, shard.locators[1]) == ("bad-column", "item")


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_was_replaced_is_noticed_and_nothing_is_mixed(tmp_path: Path, packed: bool) -> None:
    mode = "w:gz" if packed else "w"
    path = make_tar(tmp_path / "s.tar", [*sample("a"), *sample("b"), *sample("c")], mode)
    source = TarSource([path])
    (shard,) = source.shards(NOTHING)
    assert source.read(shard.name, items(shard)[2]).data == b"c"
    make_tar(tmp_path / "new.tar", [*sample("a"), *sample("B"), *sample("c")], mode).replace(path)
    os.utime(path, ns=(0, 10**18))
    assert refused(source, shard.name, shard.locators[0]) == ("changed", "worker")
    assert refused(source, shard.name, shard.locators[1]) == ("changed", "worker")
    make_tar(tmp_path / "new.tar", sample("a"), mode).replace(path)
    assert refused(source, shard.name, shard.locators[2]) == ("changed", "worker")
    path.unlink()
    assert refused(source, shard.name, shard.locators[0]) == ("unreadable", "worker")


def test_locators_of_a_listing_without_versions_know_a_replaced_tar_by_its_headers(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "s.tar", [*sample("a"), *sample("b")])
    source = TarSource([path])
    (shard,) = source.shards(NOTHING)
    old = [replace(Locator.unpack(locator), stamp=b"").pack() for locator in shard.locators]
    make_tar(path, [*sample("a"), *sample("B")])
    os.utime(path, ns=(0, 10**18))
    assert source.read(shard.name, Item(0, "a", old[0])).data == b"a"
    assert refused(source, shard.name, old[1]) == ("changed", "worker")


def test_bytes_that_changed_behind_the_same_headers_are_noticed_by_size_or_time(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "s.tar", sample("a", b"before"))
    os.utime(path, ns=(0, 10**18))
    source = TarSource([path])
    (shard,) = source.shards(NOTHING)
    assert source.read(shard.name, items(shard)[0]).data == b"before"
    make_tar(path, sample("a", b"behind"))
    assert refused(source, shard.name, shard.locators[0]) == ("changed", "worker")
    os.utime(path, ns=(0, 10**18 + 999_999_999))
    assert source.read(shard.name, items(shard)[0]).data == b"behind", "the same second counts as the same tar"


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_is_written_to_while_it_is_read_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    path = make_tar(tmp_path / "s.tar", sample("a"), "w:gz" if packed else "w")
    source = TarSource([path])
    (shard,) = source.shards(NOTHING)
    part = tars._part

    def late(*given: Any) -> bytes:
        data = part(*given)
        with path.open("ab") as file:
            file.write(b"more")
        return data

    monkeypatch.setattr(tars, "_part", late)
    assert refused(source, shard.name, shard.locators[0]) == ("changed", "worker")


def test_a_tar_that_grows_while_it_is_listed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tar(tmp_path / "s.tar", sample("a"))
    members = tar_members.members_of

    def late(file: Any) -> Any:
        yield from members(file)
        with path.open("ab") as more:
            more.write(b"more")

    monkeypatch.setattr(tars, "members_of", late)
    source = TarSource([path])
    with pytest.raises(SourceError):
        list(source.shards(NOTHING))
    assert [(each.reason, each.grave) for each in source.left_out.things] == [
        ("it was written to while it was listed (1 items were before that)", True)
    ]


@pytest.mark.parametrize(
    "locator",
    [
        b"", b"x", b"w", b"s", b"s1234567", b"s12345678",
        Locator((Part("jpg", 0, 5, 0),)).pack(), Locator((Part("jpg", BLOCK, 5, 0),)).pack(),
        Locator((Part("jpg", (1 << 62) - 1, 5, 0),)).pack(), Locator((Part("jpg", 3, 10**6, 0),)).pack(),
        b"bnonsense\0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_made_up_locators_get_nothing(tmp_path: Path, locator: bytes, packed: bool) -> None:
    source = TarSource([make_tar(tmp_path / "s.tar", sample("a"), "w:gz" if packed else "w")])
    (shard,) = source.shards(NOTHING)
    assert refused(source, shard.name, locator)[1] == "worker"


@pytest.mark.parametrize("shard", ["d/../other/s.tar", "/etc/passwd", "d/gone.tar", "", "d/", "pipe:id", "d/s.tar\0"])
def test_only_tars_that_the_patterns_stand_for_are_opened(tmp_path: Path, shard: str) -> None:
    make_tar(tmp_path / "other" / "s.tar", sample("secret"))
    source = TarSource([make_tar(tmp_path / "d" / "s.tar", sample("a"))])
    (listed,) = source.shards(NOTHING)
    assert refused(source, shard, listed.locators[0]) == ("source-missing", "worker")


def test_a_tar_that_came_later_is_found_by_a_worker_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "LOOK_AGAIN_SECONDS", 0.0)
    make_tar(tmp_path / "d" / "a.tar", sample("a"))
    worker, lister = TarSource([tmp_path / "d"]), TarSource([tmp_path / "d"])
    (first,) = lister.shards(NOTHING)
    assert worker.read(first.name, items(first)[0]).data == b"a"
    make_tar(tmp_path / "d" / "b.tar", sample("b"))
    (second,) = lister.shards(Listed("d/a.tar"))
    assert worker.read(second.name, items(second)[0]).data == b"b"


def many(path: Path, count: int, mode: str) -> tuple[TarSource, ListedShard]:
    source = TarSource(
        [make_tar(path, [one for n in range(count) for one in sample(f"{n:04d}", b"%04d" % n * 500)], mode)]
    )
    (shard,) = source.shards(NOTHING)
    return source, shard


@pytest.mark.parametrize("packed", [False, True])
def test_threads_that_take_turns_read_right(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_files, "_STEP_BYTES", 4096)
    monkeypatch.setattr(tar_files, "BEHIND_BYTES", 20_000)
    source, shard = many(tmp_path / "s.tar", 200, "w:gz" if packed else "w")
    todo: list[Item] = items(shard)[::-1]
    wrong: list[Any] = []

    def reads() -> None:
        while todo:
            try:
                item = todo.pop()
            except IndexError:
                return
            if source.read(shard.name, item).data != item.key.encode() * 500:
                wrong.append(item)

    threads = [threading.Thread(target=reads) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    source.close()


def test_a_packed_tar_is_unpacked_once_while_readers_stay_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[int] = []
    real = tar_files._Packed._restart

    def restart(tar: tar_files._Packed) -> None:
        restarts.append(1)
        real(tar)

    monkeypatch.setattr(tar_files._Packed, "_restart", restart)
    monkeypatch.setattr(tar_files, "_STEP_BYTES", 4096)
    monkeypatch.setattr(tar_files, "BEHIND_BYTES", 100_000)
    source, shard = many(tmp_path / "s.tar", 400, "w:gz")
    order = items(shard)
    for at in range(0, 400, 20):
        for item in order[at : at + 20][::-1]:  # 20 items of 2,560 bytes: within what is kept
            assert source.read(shard.name, item).data == item.key.encode() * 500
    assert not restarts
    assert source.read(shard.name, order[0]).data == b"0000" * 500
    assert len(restarts) == 1
    source.close()


def read_bytes() -> int:
    """How many bytes this process has asked the kernel for."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_reading_a_range_costs_its_bytes_once(tmp_path: Path) -> None:
    source, shard = many(tmp_path / "s.tar", 1000, "w")
    source.read(shard.name, items(shard)[0])
    chosen = items(shard)[300:700]
    before = read_bytes()
    for item in chosen:
        source.read(shard.name, item)
    cost = read_bytes() - before
    bare = len(chosen) * (2000 + BLOCK)
    assert bare <= cost < bare + 20_000


def test_files_are_kept_open_and_let_go(tmp_path: Path) -> None:
    def descriptors() -> int:
        return sum(each.resolve().is_relative_to(tmp_path) for each in Path("/proc/self/fd").iterdir())

    for n in range(10):
        make_tar(tmp_path / f"s-{n}.tar", sample("a"), "w:gz" if n % 2 else "w")
    source = TarSource([tmp_path])
    shards = list(source.shards(NOTHING))
    for shard in shards:
        contents(source, shard)
        assert descriptors() <= 2 * tar_files.KEPT_OPEN
    source.close()
    assert descriptors() == 0


def test_a_damaged_gzip_stream_is_the_hosts_affair(tmp_path: Path) -> None:
    source, shard = many(tmp_path / "s.tar", 100, "w:gz")
    path = tmp_path / "s.tar"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert refused(source, shard.name, shard.locators[-1])[1] == "worker"
    path.write_bytes(gzip.compress(b"other"))
    assert refused(source, shard.name, shard.locators[-1])[1] == "worker"
    shutil.rmtree(tmp_path)
    assert refused(source, shard.name, shard.locators[0]) == (ReadReason.UNREADABLE.value, "worker")
