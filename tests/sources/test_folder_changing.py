"""A picture that changes while it is read is not given out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfbus.sources.base import Item, NothingKnown, ReadError
from cfbus.sources.folder import FolderSource


@pytest.mark.parametrize("change", ["grows", "shrinks", "is touched", "stays"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"x" * 100)
    os.utime(picture, ns=(0, 10**18))
    source = FolderSource([tmp_path])
    (shard,) = source.shards(NothingKnown())
    plain = os.read

    def late(fd: int, size: int) -> bytes:
        data = plain(fd, size)
        if change == "grows" and len(data):
            picture.write_bytes(b"y" * 200)
        elif change == "shrinks":
            os.truncate(picture, 50)
        elif change == "is touched":
            os.utime(picture, ns=(0, 10**18 + 1))
        return data

    monkeypatch.setattr(os, "read", late)
    if change == "stays":
        assert source.read(shard.name, Item(0, "a.jpg", b"")).data == b"x" * 100
        return
    with pytest.raises(ReadError) as caught:
        source.read(shard.name, Item(0, "a.jpg", b""))
    assert (caught.value.reason.value, caught.value.fault) == ("changed", "network")
