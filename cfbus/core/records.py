"""The tables that show a run from outside: jobs and contributors, as payloads for the writer. A pure reading.

What does not fit one frame is left out: the newest leases and the first gaps are there.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from cfbus.bus.columns import build
from cfbus.bus.fields import RESULT_SPLIT_BYTES
from cfbus.bus.wire import encode_table
from cfbus.core.pages import pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cfbus.core.broker import Broker

ROW_BYTES = 400
"""More than the bytes of a row, without the job's name."""
MAX_GAPS = 500
Job = tuple[str, int, int, int, int, str, str, int]
"""Job id, shard, start, end, pass, status, contributor, and the time that this is of."""


def jobs(broker: Broker) -> bytes:
    """A pending row per gap that nobody has, a row per live lease, and one for each of the last ended."""
    found = chain(_pending(broker), _leases(broker))
    rows = next(pages(found, lambda row: ROW_BYTES + 4 * len(row[0]), RESULT_SPLIT_BYTES))
    names = ("job_id", "shard", "start", "end", "pass_number", "status", "assigned_to", "timestamp")
    columns: dict[str, list[object]] = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    columns["last_error"] = [""] * len(rows)
    return encode_table(build("jobs", len(rows), columns))


def _leases(broker: Broker) -> Iterator[Job]:
    live = [(lease.row, broker.wall) for lease in broker.leases.current()]
    for row, wall in chain(live, reversed(broker.last_ended)):
        status = "leased" if row.current else "ended"
        yield row.job, row.shard, row.start, row.end, row.pass_number, status, row.contributor, wall


def _pending(broker: Broker) -> Iterator[Job]:
    for walk in broker.passes.values():
        for shard, start, end in walk.gaps(MAX_GAPS):
            job = f"{broker.shards.names[shard]}:{start}-{end}@{walk.number}"
            yield job, shard, start, end, walk.number, "pending", "", broker.wall


def contributors(broker: Broker) -> bytes:
    """A row per contributor; the writer adds what each has written."""
    known = next(pages(broker.contributors, lambda _: ROW_BYTES, RESULT_SPLIT_BYTES))
    table = build(
        "contributors",
        len(known),
        {
            "contributor_id": [who for who, _, _ in known],
            "name": [name for _, name, _ in known],
            "trust_level": [trust for _, _, trust in known],
        },
    )
    return encode_table(table)
