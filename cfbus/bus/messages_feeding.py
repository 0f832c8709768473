"""Images for workers that cannot reach them: what broker and feeder, and worker and feeder, say to each other.

Part of the protocol; `cfbus.bus.messages` has the rules for all messages. FETCH and DATA never pass the broker: a
feeder has a port of its own for them. No path is in any of these: a feeder is told by the broker which items a lease
is of, and a worker names them by their index.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from cfbus.bus.fields import Count, End, Id, Ids, Index, Message, PublicKey, Seconds, Text
from cfbus.bus.messages_work import FailedItem

MAX_FETCH_ITEMS = 256


class Allow(Message):
    """The worker with this key may read items [start, end) of a shard, under this lease, for `ttl` seconds. The
    payload is their listing (`listing` table). With `renewal` the lease is known already: only its time starts anew,
    and the table is empty."""

    TAG: ClassVar[str] = "ALLOW"
    PAYLOAD: ClassVar[bool] = True
    lease: Id
    worker: PublicKey
    shard: Index
    shard_name: Annotated[str, Field(min_length=1, max_length=512)]
    start: Index
    end: End
    ttl: Seconds
    renewal: bool = False


class Allowed(Message):
    """The feeder's answer to ALLOW: it serves this lease now, or `problem` says why not. Only then is it granted."""

    TAG: ClassVar[str] = "ALLOWED"
    lease: Id
    problem: Text = ""


class Forbid(Message):
    """These leases are over: no byte more of them."""

    TAG: ClassVar[str] = "FORBID"
    leases: Annotated[Ids, Field(min_length=1)]


class Fetch(Message):
    """A worker wants these items of a lease. `credit` is absolute: how many bytes of DATA payloads the feeder may have
    sent on this connection in all. Without items it only raises the credit."""

    TAG: ClassVar[str] = "FETCH"
    lease: Id
    items: Annotated[tuple[Index, ...], Field(max_length=MAX_FETCH_ITEMS)] = ()
    credit: Count


class Data(Message):
    """A piece of an item. All pieces together, in order, are the item's columns (JSON, `columns_size` bytes) and then
    its image; `size` is the length of both. Or the item could not be read: then `failure` says why."""

    TAG: ClassVar[str] = "DATA"
    PAYLOAD: ClassVar[bool] = True
    lease: Id
    index: Index
    size: Count = 0
    columns_size: Count = 0
    offset: Count = 0
    failure: FailedItem | None = None
