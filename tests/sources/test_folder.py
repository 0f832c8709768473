"""Folders as they are found: odd names, links, pipes, holes, liars."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.known import Listed

from cfbus.errors import SourceError
from cfbus.sources.base import Item, ListedShard, NothingKnown, ReadError, ReadReason, Source
from cfbus.sources.folder import FolderSource
from cfbus.sources.suffixes import PICTURES

NOTHING = NothingKnown()


def plant(root: Path, *names: str | bytes) -> Path:
    """Files whose content is their own name."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return root


def keys(source: Source) -> list[str]:
    return [key for shard in source.shards(NOTHING) for key in shard.keys]


def items(shard: ListedShard) -> list[Item]:
    return [Item(n, key, locator) for n, (key, locator) in enumerate(zip(shard.keys, shard.locators, strict=True))]


def refused(source: Source, shard: str, path: str | bytes) -> tuple[ReadReason, str]:
    locator = os.fsencode(path)
    with pytest.raises(ReadError) as caught:
        source.read(shard, Item(0, "key", locator))
    assert caught.value.detail.endswith(".")
    return caught.value.reason, caught.value.fault


# -- listing


def test_pictures_are_listed_in_a_fixed_order_and_read_back(tmp_path: Path) -> None:
    root = plant(tmp_path / "photos", "b.jpg", "a/z.PNG", "a/y.jpeg", "a.gif", "c/d/e.WebP", "a0/k.avif", "README.txt")
    source = FolderSource([root])
    (shard,) = source.shards(NOTHING)
    assert shard.name == "photos-00000"
    assert shard.keys == ["a/y.jpeg", "a/z.PNG", "a.gif", "a0/k.avif", "b.jpg", "c/d/e.WebP"]
    assert shard.locators == [b""] * 6
    assert [source.read(shard.name, item).data.decode() for item in items(shard)] == shard.keys
    assert source.left_out.things == []


def test_every_suffix_counts_in_any_case(tmp_path: Path) -> None:
    plant(tmp_path, *(f"x{suffix}" for suffix in PICTURES), *(f"y{suffix.upper()}" for suffix in PICTURES))
    plant(tmp_path, "x.jpg.txt", "jpg", "xjpg", "x.", "x.svg")
    assert len(keys(FolderSource([tmp_path]))) == 2 * len(PICTURES)


def test_hidden_things_are_left_out(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", ".b.jpg", ".thumbs/c.jpg", "d/.e.jpg", ".jpg")
    assert keys(FolderSource([tmp_path])) == ["a.jpg"]


def test_a_store_is_not_entered(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "out/store.json", "out/x.jpg", "out/deep/y.jpg", "b/c.jpg")
    source = FolderSource([tmp_path])
    assert keys(source) == ["a.jpg", "b/c.jpg"]
    assert [(skip.path, skip.reason) for skip in source.left_out.things] == [
        (str(tmp_path / "out"), "is a cfbus store")
    ]
    with pytest.raises(SourceError, match="cfbus store"):
        FolderSource([tmp_path / "out"])


def test_shards_keep_their_bounds(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{n:03d}.jpg" for n in range(10)))
    assert [len(s.keys) for s in FolderSource([tmp_path], shard_items=4).shards(NOTHING)] == [4, 4, 2]
    assert [len(s.keys) for s in FolderSource([tmp_path], max_locator_bytes=21).shards(NOTHING)] == [3, 3, 3, 1]
    source = FolderSource([plant(tmp_path, "a" * 50 + ".jpg")], max_locator_bytes=21)
    assert len(keys(source)) == 10
    assert [skip.reason for skip in source.left_out.things] == ["its path is too long"]


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"\0/") and name[:1] != b".")


@settings(max_examples=60, deadline=None)
@given(names=st.sets(NAMES | st.sampled_from([b"a\xff", b"a\\xff", b"\\", b"a\\\\xff", b"\xff"]), min_size=1))
def test_any_names_have_distinct_readable_keys_and_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: set[bytes]
) -> None:
    root = tmp_path_factory.mktemp("names")
    plant(root, *(name + b".jpg" for name in names), *(b"in/" + name + b".jpg" for name in names))
    source = FolderSource([root], max_locator_bytes=100, shard_items=7)
    shards = list(source.shards(NOTHING))
    read = {source.read(shard.name, item).data for shard in shards for item in items(shard)}
    assert read == {name + b".jpg" for name in names} | {b"in/" + name + b".jpg" for name in names}
    listed = [key for shard in shards for key in shard.keys]
    assert len(set(listed)) == len(listed) == len(read)
    for shard in shards:
        assert len(shard.keys) <= 7
        assert sum(map(len, [*(key.encode() for key in shard.keys), *shard.locators])) <= 100
    assert list(source.shards(Listed(shards))) == []
    shutil.rmtree(root)


def test_an_odd_name_is_escaped_and_cannot_pass_for_another(tmp_path: Path) -> None:
    plant(
        tmp_path,
        b"d/a\xff.jpg",
        "d/a\\xff.jpg",
        b"d/\xffb\xff.jpg",
        b"d/\\xffb\xff.jpg",
        "\u5199\u771f.jpg",
        "line\nbreak.jpg",
    )
    (shard,) = FolderSource([tmp_path]).shards(NOTHING)
    assert dict(zip(shard.keys, shard.locators, strict=True)) == {
        "d/a\\xff.jpg": b"",
        "./d/a\\xff.jpg": b"d/a\xff.jpg",
        "./d/\\xffb\\xff.jpg": b"d/\xffb\xff.jpg",
        "./d/\\\\xffb\\xff.jpg": b"d/\\xffb\xff.jpg",
        "line\nbreak.jpg": b"",
        "\u5199\u771f.jpg": b"",
    }


def test_a_rescan_lists_only_what_is_new_in_new_shards(tmp_path: Path) -> None:
    root = plant(tmp_path / "r", "b.jpg", "d.jpg", b"\xfe.jpg")
    source = FolderSource([root], shard_items=2)
    first = list(source.shards(NOTHING))
    assert list(source.shards(Listed(first))) == []
    plant(root, "a.jpg", "c/c.jpg")
    (root / "b.jpg").unlink()
    (new,) = source.shards(Listed(first))
    assert (new.name, new.keys) == ("r-00002", ["a.jpg", "c/c.jpg"])
    shutil.rmtree(root)
    root.mkdir()
    assert list(FolderSource([root]).shards(Listed([*first, new]))) == []


# -- roots


def test_roots_of_one_name_have_labels_of_their_own(tmp_path: Path) -> None:
    roots = [plant(tmp_path / d / "my photos", f"{d}.jpg", "same.jpg") for d in "xyz"]
    source = FolderSource(roots)
    shards = list(source.shards(NOTHING))
    assert [shard.name for shard in shards] == ["my_photos-00000", "my_photos.2-00000", "my_photos.3-00000"]
    assert list(source.labels().values()) == [str(root) for root in roots]
    assert [source.read(shard.name, items(shard)[0]).data for shard in shards] == [b"same.jpg"] * 3
    assert [source.read(shard.name, items(shard)[1]).data for shard in shards] == [b"x.jpg", b"y.jpg", b"z.jpg"]
    grown = FolderSource([*roots, plant(tmp_path / "n" / "my photos", "n.jpg")])
    assert [shard.name for shard in grown.shards(Listed(shards))] == ["my_photos.4-00000"]


def test_a_label_made_by_a_copy_does_not_meet_a_given_one(tmp_path: Path) -> None:
    roots = [plant(tmp_path / d, "a.jpg") for d in ("x/p", "y/p.2", "z/p")]
    assert list(FolderSource(roots).labels()) == ["p", "p.2", "p.3"]


def test_the_current_folder_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plant(tmp_path / "here", "a.jpg"))
    source = FolderSource([Path()])
    assert list(source.labels()) == ["here"]
    monkeypatch.chdir("/")
    assert source.read("here-00000", Item(0, "a.jpg", b"")).data == b"a.jpg"


@pytest.mark.parametrize("second", ["p", "p/q", ".", "p/../p", "link"])
def test_a_root_within_a_root_is_refused(tmp_path: Path, second: str) -> None:
    plant(tmp_path, "p/q/a.jpg")
    (tmp_path / "link").symlink_to("p")
    with pytest.raises(SourceError, match="one folder holds the other"):
        FolderSource([tmp_path / "p", tmp_path / second])
    plant(tmp_path, "pq/a.jpg")
    FolderSource([tmp_path / "p", tmp_path / "pq"])


def test_roots_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    file = plant(tmp_path, "a.jpg") / "a.jpg"
    with pytest.raises(SourceError, match="no such folder"):
        FolderSource([tmp_path / "nope"])
    with pytest.raises(SourceError, match="a file, not a folder"):
        FolderSource([file])
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SourceError, match="cannot be read"):
        FolderSource([tmp_path / "loop"])


def test_folders_without_pictures_say_what_was_seen(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="empty"):
        list(FolderSource([tmp_path]).shards(NOTHING))
    plant(tmp_path, "a.txt", "b.TXT", "d/c.svg", "README", b"x.\xff")
    with pytest.raises(SourceError, match=r"5 other files \(\.txt 2") as caught:
        list(FolderSource([tmp_path]).shards(NOTHING))
    assert ".jfif" in caught.value.hint
    assert "no suffix 1" in caught.value.message


def test_one_barren_root_among_others_is_reported(tmp_path: Path) -> None:
    full, barren = plant(tmp_path / "full", "a.jpg"), plant(tmp_path / "barren", "a.txt")
    source = FolderSource([barren, full])
    assert keys(source) == ["a.jpg"]
    assert [(skip.path, skip.reason) for skip in source.left_out.things] == [(str(barren), "holds no picture")]


# -- links and other kinds


def linked(tmp_path: Path) -> Path:
    outside = plant(tmp_path / "outside", "o.jpg", "sub/p.jpg")
    root = plant(tmp_path / "root", "a.jpg", "d/b.jpg")
    (root / "in.jpg").symlink_to("a.jpg")
    (root / "out.jpg").symlink_to(outside / "o.jpg")
    (root / "dangling.jpg").symlink_to("nowhere.jpg")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "d" / "up").symlink_to("..")
    (root / "d" / "here").symlink_to(".")
    (root / "far").symlink_to(outside)
    (root / "far2").symlink_to(outside)
    return root


def test_links_are_left_out_reported_and_not_opened(tmp_path: Path) -> None:
    source = FolderSource([linked(tmp_path)])
    assert keys(source) == ["a.jpg", "d/b.jpg"]
    assert source.left_out.count == 8
    assert {skip.reason for skip in source.left_out.things} == {"is a link"}
    for path in ("in.jpg", "out.jpg", "dangling.jpg", "self.jpg", "d/up/a.jpg", "far/o.jpg", "far/sub/p.jpg"):
        assert refused(source, "root-00000", path) == (ReadReason.OUTSIDE, "item"), path


def test_followed_links_neither_loop_nor_multiply(tmp_path: Path) -> None:
    source = FolderSource([linked(tmp_path)], follow_links=True)
    (shard,) = source.shards(NOTHING)
    assert shard.keys == ["a.jpg", "d/b.jpg", "far/o.jpg", "far/sub/p.jpg", "in.jpg", "out.jpg"]
    assert {skip.reason for skip in source.left_out.things} == {"is not a regular file"}
    read = [source.read(shard.name, item).data for item in items(shard)]
    assert read == [b"a.jpg", b"d/b.jpg", b"o.jpg", b"sub/p.jpg", b"a.jpg", b"o.jpg"]
    assert refused(source, shard.name, "dangling.jpg") == (ReadReason.VANISHED, "item")


def test_a_root_may_itself_be_a_link(tmp_path: Path) -> None:
    plant(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to("real")
    source = FolderSource([tmp_path / "link"])
    (shard,) = source.shards(NOTHING)
    assert source.read(shard.name, items(shard)[0]).data == b"a.jpg"


def test_pipes_sockets_and_folders_named_like_pictures_do_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "a.jpg", "folder.jpg/b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("socket.jpg")
        source = FolderSource([tmp_path])
        (shard,) = source.shards(NOTHING)
        assert shard.keys == ["a.jpg", "folder.jpg/b.jpg"]
        assert [skip.reason for skip in source.left_out.things] == ["is not a regular file"] * 2
        for name in ("pipe.jpg", "socket.jpg", "folder.jpg"):
            assert refused(source, shard.name, name) == (ReadReason.UNREADABLE, "item")


def test_a_folder_that_cannot_be_entered_is_skipped_and_reported(tmp_path: Path) -> None:
    # Deeper than a path can be long: refused by the kernel even to a superuser.
    plant(tmp_path, "a.jpg", "z.jpg")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    source = FolderSource([tmp_path])
    assert keys(source) == ["a.jpg", "z.jpg"]
    assert source.left_out.count == 1
    assert source.left_out.things[0].reason == "cannot be read: File name too long"


@pytest.fixture
def plain_user_folder() -> Iterator[Path]:
    """A folder reached by everybody, while this process has no superuser's rights."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    yield folder
    if superuser:
        os.seteuid(0)
    (folder / "secret").chmod(0o700)
    shutil.rmtree(folder)


def test_what_may_not_be_read_is_this_hosts_fault(plain_user_folder: Path) -> None:
    root = plant(plain_user_folder, "a.jpg", "secret/b.jpg", "c.jpg")
    (root / "secret").chmod(0)
    (root / "c.jpg").chmod(0)
    source = FolderSource([root])
    (shard,) = source.shards(NOTHING)
    assert shard.keys == ["a.jpg", "c.jpg"]
    assert source.left_out.things[0].reason == "cannot be read: Permission denied"
    assert refused(source, shard.name, "c.jpg") == (ReadReason.UNREADABLE, "worker")
    assert refused(source, shard.name, "secret/b.jpg") == (ReadReason.UNREADABLE, "worker")
    with pytest.raises(SourceError, match="Permission denied"):
        FolderSource([root / "secret"])


# -- reading


@pytest.mark.parametrize(
    "path",
    [
        "../outside/o.jpg", "d/../../outside/o.jpg", "/etc/passwd", "/etc/x.jpg", "//x.jpg", "./a.jpg", "d//b.jpg",
        "d/", "", ".", "..", ".hidden.jpg", ".ssh/x.jpg", "notes.txt", "a.jpg\0.png", "d/.", "a.jpg/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("follow", [False, True])
def test_what_no_listing_has_is_never_opened(tmp_path: Path, path: str, follow: bool) -> None:
    plant(tmp_path, "outside/o.jpg", "root/a.jpg", "root/d/b.jpg", "root/notes.txt", "root/.hidden.jpg")
    plant(tmp_path, "root/.ssh/x.jpg")
    source = FolderSource([tmp_path / "root"], follow_links=follow)
    with pytest.raises(ReadError) as caught:
        source.read("root-00000", Item(0, path if path else "x", os.fsencode(path)) if path else Item(0, "", b""))
    assert (caught.value.reason, caught.value.fault) == (ReadReason.OUTSIDE, "item")


def test_a_vanished_file_is_the_items_fault_and_a_vanished_root_is_not(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", "a.jpg", "d/b.jpg")
    source = FolderSource([root])
    (root / "a.jpg").unlink()
    shutil.rmtree(root / "d")
    assert refused(source, "root-00000", "a.jpg") == (ReadReason.VANISHED, "item")
    assert refused(source, "root-00000", "d/b.jpg") == (ReadReason.VANISHED, "item")
    root.rename(tmp_path / "away")
    assert refused(source, "root-00000", "a.jpg") == (ReadReason.SOURCE_MISSING, "worker")
    root.mkdir()  # as an empty mount point stands there when its disk is gone
    assert refused(source, "root-00000", "a.jpg") == (ReadReason.SOURCE_MISSING, "worker")
    assert refused(source, "other-00000", "a.jpg") == (ReadReason.SOURCE_MISSING, "worker")
    assert refused(source, "root", "a.jpg") == (ReadReason.SOURCE_MISSING, "worker")


def test_the_size_limit_is_exact(tmp_path: Path) -> None:
    plant(tmp_path / "r", "a.jpg")
    (tmp_path / "r" / "a.jpg").write_bytes(bytes(3_000_000))
    fitting = FolderSource([tmp_path / "r"], max_file_bytes=3_000_000)
    assert len(fitting.read("r-00000", Item(0, "a.jpg", b"")).data) == 3 * 10**6
    small = FolderSource([tmp_path / "r"], max_file_bytes=2_999_999)
    assert refused(small, "r-00000", "a.jpg") == (ReadReason.TOO_LARGE, "item")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_reading_leaks_no_descriptors_and_stands_threads(tmp_path: Path) -> None:
    source = FolderSource([plant(tmp_path / "r", "d/e/a.jpg")])
    before = descriptors()
    wrong = []

    def reads() -> None:
        for _ in range(100):
            if source.read("r-00000", Item(0, "d/e/a.jpg", b"")).data != b"d/e/a.jpg":
                wrong.append(1)
            for path in (b"d/e/gone.jpg", b"d/gone/a.jpg", b"d/e/a.jpg/x.jpg"):
                with contextlib.suppress(ReadError):
                    source.read("r-00000", Item(0, "", path))

    threads = [threading.Thread(target=reads) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert descriptors() == before
