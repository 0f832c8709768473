"""The broker's ledger: what a restart finds, and that it is one broker's at a time."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from cfbus.core.effects import DropLeases, LeaseRow, Note, SaveLease, SavePosition
from cfbus.errors import DamagedStoreError, StoreInUseError, StoreMismatchError
from cfbus.store.ledger import Ledger


def lease(number: int) -> LeaseRow:
    job = f"photos-00000:0-8@1.{number}"
    return LeaseRow(f"{number:016x}", job, 1, 0, 0, 8, "c-1", "SHA256:x", "a" * 16, backup=False, current=True)


def test_a_restart_finds_what_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    assert ledger.remembered() == type(ledger.remembered())()
    ended = replace(lease(2), current=False, backup=True)
    ledger.apply([SaveLease(lease(1)), Note("passed over"), SaveLease(ended), SavePosition("5" * 16, 42)])
    ledger.close()
    ledger = Ledger(path)
    remembered = ledger.remembered()
    assert (remembered.store_id, remembered.position, remembered.granted) == ("5" * 16, 42, 2)
    assert remembered.leases == (lease(1), ended)
    ledger.close()


def test_job_numbers_never_go_back(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.apply([SaveLease(lease(7)), SaveLease(replace(lease(3), current=False))])
    ledger.apply([SaveLease(replace(lease(5), current=False)), DropLeases((lease(7).lease,))])
    assert ledger.remembered().granted == 7
    ledger.close()
    ledger = Ledger(path)
    assert ledger.remembered().granted == 7
    ledger.apply([SaveLease(lease(6))])
    assert ledger.remembered().granted == 7
    assert {row.lease for row in ledger.remembered().leases} == {lease(number).lease for number in (3, 5, 6)}
    ledger.close()


def test_a_second_broker_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(StoreInUseError, match="Another broker"):
        Ledger(tmp_path / "ledger.sqlite")
    ledger.close()
    Ledger(tmp_path / "ledger.sqlite").close()


def test_a_newer_or_a_broken_ledger_is_said(tmp_path: Path) -> None:
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StoreMismatchError, match="newer cfbus"):
        Ledger(newer)
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"no database " * 1000)
    with pytest.raises(DamagedStoreError):
        Ledger(broken)
