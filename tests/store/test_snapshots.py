from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cfbus.bus.columns import LAYOUTS, NO_INT, build
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.store.schema import SCHEMAS
from cfbus.store.snapshots import write_contributors, write_jobs


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", "birds", create=True) as store:
        yield store


def test_jobs_are_replaced_as_a_whole(store: Store) -> None:
    manifest = Manifest.open(store)
    manifest.add_shards([ShardRow(0, "a-00000", 9), ShardRow(1, "b-00000", 9)])
    empty: dict[str, list[object]] = {name: [] for name in LAYOUTS["jobs"].items}
    write_jobs(store, manifest, build("jobs", 0, empty))
    path = store.snapshot_path("jobs")
    assert pq.read_table(path).num_rows == 0
    jobs = build(
        "jobs",
        2,
        {
            "job_id": ["b-00000:0-4@1.1", "a-00000:4-9@1"], "shard": [1, 0], "start": [0, 4], "end": [4, 9],
            "pass_number": [1, 1], "status": ["done", "pending"], "assigned_to": ["ann", ""],
            "timestamp": [1_500_000, NO_INT], "last_error": ["", "netz wäg"],
        },
    )  # fmt: skip
    write_jobs(store, manifest, jobs)
    manifest.close()
    assert pq.read_schema(path).equals(SCHEMAS["jobs"])
    first, second = pq.read_table(path).to_pylist()
    assert first == {
        "job_id": "b-00000:0-4@1.1", "dataset": "birds", "shard": "b-00000", "status": "done", "assigned_to": "ann",
        "timestamp": datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC), "item_start": 0, "item_end": 4,
        "revision": 1, "last_error": None,
    }  # fmt: skip
    assert (second["shard"], second["assigned_to"], second["timestamp"]) == ("a-00000", None, None)
    assert second["last_error"] == "netz wäg"
    assert list(store.staging_dir.iterdir()) == []


def test_contributors_have_their_totals(store: Store) -> None:
    table = build(
        "contributors", 3, {"contributor_id": ["b", "a", "c"], "name": ["Bob", "Ann", "C"], "trust_level": [1, 5, 0]}
    )
    write_contributors(store, table, {"a": 3, "b": 10, "gone": 3})
    path = store.snapshot_path("contributors")
    assert pq.read_schema(path).equals(SCHEMAS["contributors"])
    assert [tuple(row.values()) for row in pq.read_table(path).to_pylist()] == [
        ("b", "Bob", 10, 1),
        ("a", "Ann", 3, 5),
        ("gone", "gone", 3, None),
        ("c", "C", 0, 0),
    ]


def test_no_contributors_at_all(store: Store) -> None:
    write_contributors(store, build("contributors", 0, {"contributor_id": [], "name": [], "trust_level": []}), {})
    assert pq.read_table(store.snapshot_path("contributors")).num_rows == 0
