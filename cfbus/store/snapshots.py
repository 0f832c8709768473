"""The tables that are replaced as a whole: jobs and contributors.

What they say is of one moment and can be made anew; they are durable only so that a reader never sees half
of one. Knows nothing of leases or keys.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cfbus.bus.columns import NO_INT, Table
from cfbus.store.durable import new_file, publish
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.schema import SCHEMAS, TIME


def write_jobs(store: Store, manifest: Manifest, jobs: Table) -> None:
    """Replace ``jobs.parquet`` by a ``jobs`` table."""
    times = jobs.numbers("timestamp")
    names = [shard.name for shard in manifest.shards()]
    _write(
        store,
        "jobs",
        {
            "job_id": pa.array(jobs.text("job_id").texts()),
            "dataset": pa.array([store.dataset] * jobs.rows, pa.string()).dictionary_encode(),
            "shard": pa.array([names[number] for number in jobs.numbers("shard")], pa.string()).dictionary_encode(),
            "status": pa.array(jobs.words("status").texts(), pa.string()).dictionary_encode(),
            "assigned_to": pa.array([who or None for who in jobs.text("assigned_to").texts()], pa.string()),
            "timestamp": pa.array(times, pa.int64(), mask=times == NO_INT).view(TIME),
            "item_start": pa.array(jobs.numbers("start")),
            "item_end": pa.array(jobs.numbers("end")),
            "revision": pa.array(jobs.numbers("pass_number").astype(np.int32)),
            "last_error": pa.array([what or None for what in jobs.text("last_error").texts()], pa.string()),
        },
    )


def write_contributors(store: Store, contributors: Table, totals: Mapping[str, int]) -> None:
    """Replace ``contributors.parquet``: a ``contributors`` table with the captions of each, the most first.

    ``totals`` is the sum of the manifest's and the journal's; whoever is only there gets a row too.
    """
    ids = contributors.text("contributor_id").texts()
    names = contributors.text("name").texts()
    levels: list[int | None] = [int(level) for level in contributors.numbers("trust_level")]
    rows = list(zip(ids, names, (totals.get(one, 0) for one in ids), levels, strict=True))
    rows += [(one, one, captions, None) for one, captions in totals.items() if one not in set(ids)]
    rows.sort(key=lambda row: (-row[2], row[0]))
    fields = SCHEMAS["contributors"]
    columns = list(zip(*rows, strict=True)) or [()] * len(fields)
    _write(
        store, "contributors", {one.name: pa.array(list(column)) for one, column in zip(fields, columns, strict=True)}
    )


def _write(store: Store, table: str, columns: Mapping[str, pa.Array]) -> None:
    schema = SCHEMAS[table]
    rows = pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
    path = store.snapshot_path(table)
    staged = store.staging_dir / path.name
    with new_file(staged) as file:
        pq.write_table(rows, file, compression="zstd", write_page_checksum=True)
    publish(staged, path)
