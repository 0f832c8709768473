"""Files that tables are read from, while somebody writes to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sources.tables_rig import everything, listed, numbers, opened, png, read, table

from cfbus.sources.base import ReadError
from cfbus.sources.table_files import DiskBytes


def test_a_table_that_is_written_over_while_it_is_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(first: int) -> dict[str, Any]:
        return {"image": [png(first + row) + bytes(40_000) for row in range(20)], "row": list(range(20))}

    path = table(tmp_path / "a.parquet", rows(0), compression="none")
    other = table(tmp_path / "b.parquet", rows(100), compression="none").read_bytes()
    source = opened(path)
    (shard,) = listed(source)
    assert numbers([read(source, shard, 0)]) == [0]
    real = DiskBytes.read

    def written_over(self: DiskBytes, start: int, size: int) -> bytes:
        path.write_bytes(other)
        return real(self, start, size)

    monkeypatch.setattr(DiskBytes, "read", written_over)
    assert numbers([read(source, shard, row) for row in (8, 9)]) == ["changed/worker"] * 2


def test_bytes_that_are_not_there_are_a_change_and_no_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    file = DiskBytes(path)
    assert file.read(90, 10) == b"x" * 10
    with pytest.raises(ReadError) as caught:
        file.read(90, 11)
    assert (caught.value.reason, caught.value.fault) == ("changed", "worker")
    file.close()


def test_a_table_of_the_same_size_is_told_from_the_one_that_was_listed(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    path = table(tmp_path / "a.parquet", {"image": [b"aaaa", b"bbbb"]}, **plain)
    (shard,) = listed(opened(path))
    size = path.stat().st_size
    assert table(path, {"image": [b"cccc", b"dddd"]}, **plain).stat().st_size == size
    assert [str(one) for one in everything(opened(path), [shard])] == [
        "changed: The table is not the one that was listed."
    ] * 2
