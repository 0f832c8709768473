"""A store is compared with itself and with the broker's ledger while all daemons run; and the ledger is mended."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from processes.all_daemons import AllDaemons
from processes.support import Nursery

ITEMS = 300
BUS = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "captions.engine=scripted",
    "captions.scripted.rate=40",
    "storage.seal_seconds=3600",
)


class Bus(AllDaemons):
    """A run that is half done, paused, and nothing of it sealed."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        super().__init__(nursery, folder, *BUS)
        with self.terminals.watch() as watch:
            watch.until("something is done", lambda s: s.captions > 0)
            self.ask("pause")
            watch.until("nothing is leased", lambda s: s.leased == 0)

    def ledger(self, **facts: str) -> dict[str, str]:
        """What it says, after these were changed behind the broker's back."""
        (path,) = self.terminals.folder.rglob("ledger.sqlite")
        with closing(sqlite3.connect(path, timeout=30)) as database, database:
            for name, value in facts.items():
                database.execute("UPDATE facts SET value = ? WHERE name = ?", (value, name))
            return dict(database.execute("SELECT name, value FROM facts WHERE name IN ('store_id', 'position')"))


@pytest.fixture
def bus(nursery: Nursery, tmp_path: Path) -> Iterator[Bus]:
    made = Bus(nursery, tmp_path / "bus")
    yield made
    made.end()


def test_a_wrong_ledger_is_told_and_mended_and_the_journal_is_compared(bus: Bus) -> None:
    assert list((bus.store / "journal").glob("*.sqlite"))
    assert not list((bus.store / "captions").glob("*.parquet"))
    assert bus.ask.json("scan") == {"whole": True, "findings": []}
    true = bus.ledger()
    bus.ledger(position="123456", store_id="0" * 16)
    told = bus.ask.json("scan", ends=74)
    assert told["whole"]
    assert [(each["where"], each["mends"], each["mended"]) for each in told["findings"]] == [
        ("ledger", "ledger", False), ("ledger", "ledger", False),
    ]  # fmt: skip
    assert true["store_id"] in told["findings"][0]["what"]
    assert "position 123456 was acknowledged" in told["findings"][1]["what"]
    assert "Mended" in bus.ask("scan", "--fix")
    assert bus.ledger() == true
    assert bus.ask("scan").startswith("Nothing differs.")
    assert bus.ask.json("--offline", "scan") == {"whole": True, "findings": []}

    stranger = bus.store / "captions" / "0000000000999999.parquet"
    stranger.write_bytes(b"nothing")
    assert "does not know it" in bus.ask("scan", "--fix", ends=74)
    stranger.unlink()
    bus.ask("resume")
    bus.finished()
    assert bus.ask.json("scan") == {"whole": True, "findings": []}
