"""Leases that the ledger remembers from before a restart, taken up once it is known what is done.

Part of the broker's core. Invariant: what is taken up overlaps no lease that runs, and nothing that is done.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cfbus.core.effects import LeaseRow
from cfbus.core.leases import LeaseState
from cfbus.core.ranges import RangeSet

if TYPE_CHECKING:
    from cfbus.core.broker import Broker


def adopt(broker: Broker, now: float) -> None:
    """Leases from before a restart get a full time to live, once their pass is known again."""
    if broker.ready or broker.writer is None or not broker.writer.caught_up:
        return
    broker.ready = True
    for row in broker.remembered:
        walk = broker.passes.get(row.pass_number)
        if walk is None or row.shard >= len(broker.shards) or row.end > broker.shards.lengths[row.shard]:
            continue
        if walk.shard_complete(row.shard):
            broker.leases.add_complete(row)
            continue
        undone = RangeSet(walk.undone_in(row.shard, [(row.start, row.end)]))
        current = row.current and bool(undone) and not _overlaps(broker, row, undone)
        connection = broker.routes.get(row.instance)
        deadline = now + broker.rules.lease_seconds
        if current != row.current:
            row = replace(row, current=current)
            broker.save(row)
        broker.leases.add(LeaseState(row, connection, deadline, now, undone, progressed=now, current=current))
        if current:
            walk.hold(row.shard, undone)
    broker.remembered = ()


def _overlaps(broker: Broker, row: LeaseRow, undone: RangeSet) -> bool:
    same = (other for other in broker.leases.at(row.pass_number, row.shard) if other.current)
    return any(other.row.backup == row.backup and other.undone.within(a, b) for other in same for a, b in undone)
