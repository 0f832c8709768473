"""What a listing passed over is told until the next listing says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfbus.errors import DamagedStoreError
from cfbus.store.folder import Store
from cfbus.store.left_out import NAME, LeftOut, Thing, read_left_out, write_left_out


def test_the_last_listing_counts(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", "d", create=True) as store:
        assert read_left_out(store.root) == LeftOut()
        write_left_out(store, 0, 0, [])
        assert not (store.root / NAME).exists()
        things = (Thing("/x/\ud800.tar", "it is cut off", True), Thing("/y", "is a link", False))
        write_left_out(store, 5, 1, things)
        assert read_left_out(store.root) == LeftOut(5, 1, things)
        write_left_out(store, 0, 0, [])
        assert read_left_out(store.root) == LeftOut()
        assert list(store.staging_dir.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"count": 1, "grave": 0, "things": [{"a": 1}]}', b"\xff"])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DamagedStoreError):
        read_left_out(tmp_path)
