"""A store is compared with itself: each difference is told with its place, and a whole one has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cfbus.core.effects import SavePosition
from cfbus.errors import StoreInUseError
from cfbus.store.compaction import compact
from cfbus.store.ledger import Ledger, facts_of, set_aside
from cfbus.store.salvage import examine
from cfbus.store.scan import LOOKS, Compared, Finding, compare
from cfbus.store.seal import record, seal_journal

Opened = Any


@pytest.fixture
def store(tmp_path: Path, opener: Callable[[Path], Opened], simple: Callable[..., Any]) -> Opened:
    """Four positions sealed, two in the journal."""
    opened = opener(tmp_path / "store")
    opened.journal.append([simple(position) for position in range(1, 5)])
    file = opened.journal.roll()
    record(opened.manifest, opened.journal, file, seal_journal(opened.store.root, file.path))
    opened.journal.append([simple(position) for position in (5, 6)])
    yield opened
    opened.close()


def found(store: Opened, broker: Path | None = None) -> list[Finding]:
    return compare(store.store, broker, locked=True).findings


def beside(store: Opened) -> Compared:
    """As by somebody who has not the lock, while the writer has the journal open."""
    return compare(store.store, None, locked=False)


def segment(store: Opened) -> Path:
    (path,) = (store.store.root / "captions").glob("*.parquet")
    return Path(path)


def test_a_whole_store_has_no_findings(store: Opened) -> None:
    assert found(store) == []
    assert beside(store) == Compared([], True, 6)


def test_a_segment_that_is_gone_cut_or_another(store: Opened) -> None:
    path = segment(store)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    (cut,) = found(store)
    assert cut.where == f"captions/{path.name}"
    pq.write_table(pq.ParquetFile(_kept(path, whole)).read()[:3], path)
    (short,) = found(store)
    assert short.what == "it has 3 rows, the manifest says 16"
    path.unlink()
    (gone,) = found(store)
    assert "not there" in gone.what


def _kept(path: Path, whole: bytes) -> Path:
    kept = path.parent.parent / "kept"
    kept.write_bytes(whole)
    return kept


def test_a_segment_that_nobody_knows(store: Opened) -> None:
    stranger = segment(store).with_name("0000000000000099.parquet")
    stranger.write_bytes(segment(store).read_bytes())
    (finding,) = found(store)
    assert finding.where == f"captions/{stranger.name}"
    assert beside(store).findings == [finding]


def test_what_a_compaction_left_for_readers_is_known(store: Opened, simple: Callable[..., Any]) -> None:
    file = store.journal.roll()
    record(store.manifest, store.journal, file, seal_journal(store.store.root, file.path))
    assert compact(store.store, 1, 10).before == 2
    assert len(list((store.store.root / "captions").glob("*.parquet"))) == 3
    assert found(store) == []


def test_a_listing_that_is_gone(store: Opened) -> None:
    store.store.listing_path(1).unlink()
    (finding,) = found(store)
    assert finding.where == "listing of birds-00001"


def test_a_ledger_of_another_store_or_ahead_of_this_one(store: Opened, tmp_path: Path) -> None:
    broker = tmp_path / "broker"
    broker.mkdir()
    ledger = Ledger(broker / "ledger.sqlite")
    assert found(store, broker) == [], "one that knows nothing is no contradiction"
    ledger.apply([SavePosition(store.store.store_id, 6)])
    assert found(store, broker) == []
    ledger.apply([SavePosition(store.store.store_id, 7)])
    (ahead,) = found(store, broker)
    assert "captions are lost" in ahead.what
    assert ahead.mends != "ledger", "to throw it away would hide the loss"
    ledger.apply([SavePosition("0" * 16, 7)])
    (other,) = found(store, broker)
    assert other.mends == "ledger"
    with pytest.raises(StoreInUseError):
        set_aside(broker)
    ledger.close()
    assert set_aside(broker) is not None
    assert facts_of(broker) is None
    assert set_aside(broker) is None
    assert found(store, broker) == []


def test_a_damaged_journal_file_is_told_beside_its_writer(store: Opened) -> None:
    path = store.journal.roll().path
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    compared = beside(store)
    assert compared.whole
    assert [(each.where, each.mends) for each in compared.findings] == [
        (str(path), "a backup, or cfbus journal salvage")
    ]


def meanwhile(monkeypatch: pytest.MonkeyPatch, *does: Callable[[], object]) -> None:
    """Each time the journal was looked at the next of these happens."""
    left = list(does)

    def examined(store: Any, manifest: Any) -> Any:
        found = examine(store, manifest)
        if left:
            left.pop(0)()
        return found

    monkeypatch.setattr("cfbus.store.scan.examine", examined)


def test_frames_that_come_meanwhile_are_no_difference(
    store: Opened, simple: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: store.journal.append([simple(7)]))
    assert beside(store) == Compared([], True, 6)


def test_a_journal_that_is_sealed_meanwhile_is_looked_at_again(store: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def seal() -> None:
        file = store.journal.roll()
        record(store.manifest, store.journal, file, seal_journal(store.store.root, file.path))

    meanwhile(monkeypatch, seal)
    assert beside(store) == Compared([], True, 6)
    assert not list(store.store.journal_dir.iterdir())


def test_a_journal_that_is_another_each_time_is_left_out_and_that_is_told(
    store: Opened, simple: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = segment(store).with_name("0000000000000099.parquet")
    stranger.write_bytes(segment(store).read_bytes())

    def roll() -> None:
        store.journal.roll()
        store.journal.append([simple(store.journal.position + 1)])

    meanwhile(monkeypatch, *[roll] * LOOKS)
    assert beside(store) == Compared([], False, 4)
