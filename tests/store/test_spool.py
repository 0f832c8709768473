"""A worker's spool: results survive the worker, damage is set aside, refusals are kept with their reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfbus.bus.messages import Result
from cfbus.bus.wire import checksum
from cfbus.errors import TryAgainError
from cfbus.store.spool import Spool

ROOM = 1 << 20


def result(number: int, payload: bytes) -> Result:
    return Result(
        lease="1" * 16, instance="2" * 16, number=number, ranges=((0, 4),), size=len(payload), crc=checksum(payload)
    )


def test_results_survive_the_worker(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", ROOM)
    for number in (1, 2, 3):
        assert spool.put(result(number, b"x" * number), b"x" * number)
    spool.drop("2" * 16, 2, "")
    spool.drop("2" * 16, 9, "")
    spool.close()
    spool = Spool(tmp_path / "spool", ROOM)
    assert list(spool.results()) == [(result(1, b"x"), b"x"), (result(3, b"xxx"), b"xxx")]
    spool.close()


@pytest.mark.parametrize("damage", [b"", b"no msgpack", b"\x81\xa6result\x01"])
def test_what_cannot_be_read_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.put(result(1, b"good"), b"good")
    spool.put(result(2, b"bad"), b"bad")
    path = next(tmp_path.glob("*2.result"))
    path.write_bytes(damage or path.read_bytes()[:-1] + b"?")
    assert [message.number for message, _ in spool.results()] == [1]
    assert (tmp_path / "rejected" / path.name).exists()
    spool.close()


def test_a_refused_result_is_kept_with_its_reason(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.put(result(1, b"x"), b"x")
    spool.drop("2" * 16, 1, "no such lease of yours")
    assert list(spool.results()) == []
    assert [path.read_text() for path in (tmp_path / "rejected").glob("*.reason")] == ["no such lease of yours\n"]
    spool.close()


def test_a_full_spool_says_so_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 2000)
    assert spool.put(result(1, b"x" * 1500), b"x" * 1500)
    assert not spool.put(result(2, b"x" * 1500), b"x" * 1500)
    spool.drop("2" * 16, 1, "")
    assert spool.put(result(2, b"x" * 1500), b"x" * 1500)
    spool.close()


def test_a_second_worker_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    with pytest.raises(TryAgainError, match="Another worker"):
        Spool(tmp_path, ROOM)
    spool.close()
    Spool(tmp_path, ROOM).close()
