"""A picture that changes under the hands of who reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfbus.sources.base import Item, NothingKnown, ReadError, ReadReason
from cfbus.sources.folder import FolderSource


def test_a_picture_that_is_written_to_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    source = FolderSource([tmp_path])
    (shard,) = source.shards(NothingKnown())
    item = Item(0, shard.keys[0], shard.locators[0])
    real, writes = os.read, [b"more"]

    def read(file: int, size: int) -> bytes:
        data = real(file, size)
        if writes:
            (tmp_path / "a.jpg").write_bytes(data + writes.pop())
        return data

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(ReadError) as caught:
        source.read(shard.name, item)
    assert (caught.value.reason, caught.value.fault) == (ReadReason.CHANGED, "network")
    assert source.read(shard.name, item).data.endswith(b"more")
