from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Protocol

import pytest

from cfbus.errors import (
    DamagedStoreError,
    DiskFullError,
    StoreInUseError,
    StoreMismatchError,
    UsageError,
)
from cfbus.store.folder import Store


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_a_new_store_keeps_its_identity(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a" / "b", "birds", create=True) as store:
        assert len(store.store_id) == 16
        assert int(store.store_id, 16) >= 0
        first = store.store_id
    with Store.open(tmp_path / "a" / "b", "birds", create=True) as store:
        assert store.store_id == first
        assert store.locked
    seen = Store.peek(tmp_path / "a" / "b")
    assert (seen.store_id, seen.dataset, seen.locked) == (first, "birds", False)


def test_two_stores_have_different_ids(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a", "x", create=True) as a, Store.open(tmp_path / "b", "x", create=True) as b:
        assert a.store_id != b.store_id


def test_a_second_writer_is_refused_and_hears_who_holds_it(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path, "birds", create=True),
        pytest.raises(StoreInUseError, match=rf"process {os.getpid()}\b"),
    ):
        Store.open(tmp_path, "birds", create=True)


def test_a_second_writer_that_waits_gets_in(tmp_path: Path) -> None:
    first = Store.open(tmp_path, "birds", create=True)
    told: list[str] = []
    waiting = threading.Event()

    def notify(sentence: str) -> None:
        told.append(sentence)
        waiting.set()

    opened: list[Store] = []
    second = threading.Thread(
        target=lambda: opened.append(Store.open(tmp_path, "birds", create=True, wait=120, notify=notify))
    )
    second.start()
    assert waiting.wait(60)
    first.close()
    second.join(60)
    assert len(opened) == 1
    opened[0].close()
    assert len(told) == 1
    assert "Waiting for process" in told[0]


def test_a_child_that_inherits_the_lock_holds_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path, "birds", create=True)
    assert store.lock_fd is not None
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(store.lock_fd,)
    )
    store.close()
    with pytest.raises(StoreInUseError):
        Store.open(tmp_path, "birds", create=True)
    child.communicate()
    Store.open(tmp_path, "birds", create=True).close()


def test_a_refused_open_lets_go_of_the_lock(tmp_path: Path) -> None:
    Store.open(tmp_path, "birds", create=True).close()
    with pytest.raises(StoreMismatchError, match="'birds', not to 'cats'"):
        Store.open(tmp_path, "cats", create=True)
    Store.open(tmp_path, "birds", create=True).close()


def test_a_newer_format_says_to_upgrade(tmp_path: Path) -> None:
    Store.open(tmp_path, "birds", create=True).close()
    identity = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**identity, "format": 2, "store_id": ["new"]}))
    with pytest.raises(StoreMismatchError, match=r"newer cfbus.*[Uu]pgrade"):
        Store.open(tmp_path, "birds", create=True)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"format": 1}', b'{"format": true, "store_id": ""}'])
def test_a_broken_identity_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    Store.open(tmp_path, "birds", create=True).close()
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(DamagedStoreError):
        Store.open(tmp_path, "birds", create=True)
    assert (tmp_path / "store.json").read_bytes() == content


def test_a_folder_with_other_things_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreMismatchError, match=r"thesis\.tex"):
        Store.open(tmp_path, "birds", create=True)
    assert names(tmp_path) == {"thesis.tex"}


def test_a_store_that_lost_its_identity_gets_no_new_one(tmp_path: Path) -> None:
    Store.open(tmp_path, "birds", create=True).close()
    (tmp_path / "store.json").unlink()
    with pytest.raises(StoreMismatchError, match=r"put its store\.json back"):
        Store.open(tmp_path, "birds", create=True)


def test_what_init_made_may_lie_there(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "cfbus.yaml").write_text("")
    (tmp_path / ".store.json.new").write_text("{ cut o")  # a crash in the first open
    (tmp_path / "lock").write_text("")
    Store.open(tmp_path, "birds", create=True).close()
    assert "store.json" in names(tmp_path)


def test_nothing_is_made_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no store"):
        Store.open(tmp_path / "none", "birds", create=False)
    with pytest.raises(UsageError, match="no store"):
        Store.open(tmp_path, "birds", create=False)
    with pytest.raises(UsageError, match="no store"):
        Store.peek(tmp_path / "none")
    assert names(tmp_path) == set()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        Store.open(tmp_path / "file", "birds", create=True)
    with pytest.raises(UsageError, match="no store"):
        Store.peek(tmp_path / "file")


def test_leftovers_in_staging_are_removed(tmp_path: Path) -> None:
    with Store.open(tmp_path, "birds", create=True) as store:
        (store.staging_dir / "captions-0000000000000001.parquet").write_bytes(b"half")
    with Store.open(tmp_path, "birds", create=True) as store:
        assert names(store.staging_dir) == set()


def test_a_folder_without_permission() -> None:
    root = os.geteuid() == 0
    # Not where the tests have their folders: nobody else may come there.
    with tempfile.TemporaryDirectory(prefix="cfbus-", dir="/tmp") as folder:
        place = Path(folder)
        place.chmod(0o755)
        (place / "locked").mkdir(mode=0o555)
        try:
            if root:
                os.seteuid(65534)
            with pytest.raises(UsageError, match="Permission denied"):
                Store.open(place / "locked" / "store", "birds", create=True)
            with pytest.raises(UsageError, match="Permission denied"):
                Store.open(place / "locked", "birds", create=True)
        finally:
            if root:
                os.seteuid(0)


class Disk(Protocol):
    path: Path

    def fill(self) -> None: ...
    def free(self) -> None: ...


def test_no_room_for_a_new_store(small_disk: Disk) -> None:
    small_disk.fill()
    with pytest.raises(DiskFullError, match="no room"):
        Store.open(small_disk.path / "store", "birds", create=True)
    small_disk.free()
    Store.open(small_disk.path / "store", "birds", create=True).close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_fsync_is_damage_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    tried: list[int] = []

    def refuse(fd: int) -> None:
        tried.append(fd)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DamagedStoreError, match="could not make"):
        Store.open(tmp_path / "store", "birds", create=True)
    assert len(tried) == 1
