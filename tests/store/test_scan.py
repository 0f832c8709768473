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
from cfbus.store.scan import Finding, compare
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
    return compare(store.store, broker, locked=True)


def segment(store: Opened) -> Path:
    (path,) = (store.store.root / "captions").glob("*.parquet")
    return Path(path)


def test_a_whole_store_has_no_findings(store: Opened) -> None:
    assert found(store) == []
    assert compare(store.store, None, locked=False) == []


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
    assert compare(store.store, None, locked=False) == [], "a writer may just be sealing it"


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
