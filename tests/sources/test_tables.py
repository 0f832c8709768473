"""Rows of tables: each row group is unpacked once, in bounded memory, whoever asks in whatever order."""

from __future__ import annotations

from pathlib import Path

import pytest
from sources.tables_rig import table, written

from cfbus.sources.base import ReadError
from cfbus.sources.table_columns import Wanted
from cfbus.sources.table_files import BadTableError, DiskBytes
from cfbus.sources.tables import CURSORS, KeptRows, Table


class Counted(DiskBytes):
    """Counts what is read of a file."""

    total = 0

    def read(self, start: int, size: int) -> bytes:
        self.total += size
        return super().read(start, size)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two row groups of 30 images of 1 MiB."""
    images = [bytes([number]) * (1 << 20) for number in range(60)]
    return table(tmp_path / "a.parquet", {"image": images}, group=30, compression="none", use_dictionary=False)


def opened(path: Path) -> tuple[Table, Counted]:
    source = Counted(path)
    return Table.open(source, Wanted(), buffer_bytes=1 << 20), source


def image(one: Table, kept: KeptRows, group: int, row: int) -> int:
    batch, at = one.row(kept, group, row)
    data = batch.column("image")[at].as_py()
    assert len(data) == 1 << 20
    return int(data[0])


def test_a_row_group_is_unpacked_once_by_who_asks_in_about_ascending_order(large: Path) -> None:
    one, source = opened(large)
    kept = KeptRows(32 << 20)
    order = sorted(range(30), key=lambda row: row + (row * 7) % 5)
    assert [image(one, kept, 1, row) for row in order] == [30 + row for row in order]
    assert source.total < 31 << 20
    one.close()


def test_memory_stays_the_same_whatever_a_row_group_has(large: Path) -> None:
    one, _ = opened(large)
    kept = KeptRows(8 << 20)
    for row in range(30):
        assert image(one, kept, 0, row) == row
        assert kept._bytes <= 12 << 20, "a batch more than what is kept"
    assert image(one, kept, 0, 0) == 0, "what was forgotten is unpacked again"


def test_who_read_at_several_places_do_not_start_each_other_again(large: Path) -> None:
    one, source = opened(large)
    kept = KeptRows(16 << 20)
    places = [0, 10, 20]
    assert len(places) <= CURSORS
    for step in range(10):
        for place in places:
            assert image(one, kept, 0, place + step) == place + step
    # A walk for each place, some of it twice; to start again at each turn would be 400 MiB.
    assert source.total < 100 << 20


def test_a_closed_table_and_rows_that_are_not_there(large: Path) -> None:
    one, _ = opened(large)
    kept = KeptRows()
    for group, row in ((0, 30), (2, 0), (-1, 0), (0, -1)):
        with pytest.raises(ReadError, match="no such row"):
            one.row(kept, group, row)
    one.close()
    with pytest.raises(ReadError):
        one.row(kept, 0, 0)


def test_keys_are_read_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", 0, 9)
    one, _ = opened(path)
    assert [cell.as_py() for cell in one.cells("title")] == [f"picture {number}" for number in range(9)]
    assert one.groups == [4, 4, 1]


def test_a_footer_that_lies_about_rows_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.parquet", 0, 9)
    data = path.read_bytes()
    found: list[str] = []
    faults: set[str] = set()
    for at in range(len(data) - 600, len(data) - 8):
        path.write_bytes(data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :])
        try:
            one, _ = opened(path)
        except BadTableError as error:
            found.append(str(error))
            continue
        assert sum(one.groups) == one.rows
        for group, rows in enumerate(one.groups):
            try:
                one.row(KeptRows(), group, rows - 1)
            except ReadError as error:
                faults.add(error.fault)
    assert faults <= {"item"}
    assert any("is damaged" in said or "cannot be read as parquet" in said for said in found)
