"""Rows of databases that carry a checksum, and databases of a version that is known.

An altered row is noticed and never believed. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfbus.bus.wire import checksum
from cfbus.errors import StoreMismatchError
from cfbus.store.durable import damaged_file


def check_database(path: Path, connection: sqlite3.Connection, known: int, *, deep: bool = True) -> None:
    """Refuse a database of a newer version than ``known``, and (``deep``) one whose pages do not fit together."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > known:
        raise StoreMismatchError(
            f"{path} was written by a newer cfbus (version {version}, this one knows {known}).",
            "Upgrade: pip install --upgrade cfbus.",
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone() if deep else ("ok",)
    if verdict != "ok":
        raise damaged_file(path, " ".join(str(verdict).split()))


def row_checksum(values: Sequence[object]) -> int:
    """CRC-32 over the values of a database row, whatever their types have become."""
    return checksum(repr(tuple(values)).encode())


def sealed_row(*values: object) -> tuple[object, ...]:
    """The values with their checksum."""
    return (*values, row_checksum(values))


def checked(path: Path, row: tuple[object, ...]) -> list[Any]:
    """The values of a row without its checksum, or ``DamagedStoreError``."""
    *values, crc = row
    if crc != row_checksum(values):
        raise damaged_file(path, "a row does not match its checksum")
    return values
