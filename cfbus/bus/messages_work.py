"""Work: leases, results and what becomes of them.

Part of the protocol; `cfbus.bus.messages` has the rules for all messages.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cfbus.bus.fields import (
    MAX_CHUNK_ITEMS,
    MAX_FRAME_BYTES,
    Count,
    End,
    Endpoint,
    Id,
    Index,
    Message,
    Overrides,
    Part,
    PassNumber,
    PublicKey,
    Ranges,
    Rate,
    Reason,
    Seconds,
    Slots,
    Word,
)

MAX_FAILED_ITEMS = 16


class Lease(Message):
    """A worker has room for `want` items. It stands until it is granted, replaced, or the worker leaves."""

    TAG: ClassVar[str] = "LEASE"
    want: Annotated[int, Field(ge=1, le=MAX_CHUNK_ITEMS)]
    rate: Rate
    shard: Index | None = None


class Way(Part):
    """Where a worker reads the images of a lease: a feeder's own port, and the key that it must prove to have."""

    endpoint: Endpoint
    public: PublicKey


class Grant(Message):
    """A lease on items [start, end) of a shard in a pass; `done` are those in it that need nothing from this worker.
    With `overrides` they are captioned by the spec as it is with these.

    The payload is the listing of these items (`listing` table). `ttl` counts from the grant, on the broker's clock.
    With `feeder` the images are read there.
    """

    TAG: ClassVar[str] = "GRANT"
    PAYLOAD: ClassVar[bool] = True
    lease: Id
    pass_number: PassNumber
    shard: Index
    shard_name: Annotated[str, Field(min_length=1, max_length=512)]
    start: Index
    end: End
    done: Ranges = ()
    slots: Slots
    backup: bool
    ttl: Seconds
    window: Count
    feeder: Way | None = None
    overrides: Overrides = ()


class Wait(Message):
    """Nothing to lease now, because of `reason`; the request stands, and may be repeated after `ask_again`."""

    TAG: ClassVar[str] = "WAIT"
    reason: Word
    ask_again: Seconds


class HeldLease(Part):
    """How far a lease is: `captioned` items are done on the worker, stored or not."""

    lease: Id
    captioned: Count


class Renew(Message):
    """The worker goes on with these leases. Only progress in `captioned` prolongs one."""

    TAG: ClassVar[str] = "RENEW"
    leases: Annotated[tuple[HeldLease, ...], Field(max_length=256)]
    unacked_bytes: Count
    rate: Rate


class LeaseState(Part):
    """What the broker thinks of a lease; `done` is absolute: all its items that need nothing more."""

    lease: Id
    current: bool
    ttl: Seconds
    done: Ranges = ()


class Renewed(Message):
    """Answer to RENEW, also sent unasked when items of a lease were done elsewhere."""

    TAG: ClassVar[str] = "RENEWED"
    leases: Annotated[tuple[LeaseState, ...], Field(max_length=256)]
    window: Count


class Origin(Part):
    """Who a result is from and what it is of, as the broker knows it."""

    contributor: Word
    key: Word  # its fingerprint
    job: Annotated[str, Field(max_length=600)]  # <shard>:<start>-<end>@<pass>.<n>
    pass_number: PassNumber
    shard: Index
    received: Count  # microseconds since the epoch, UTC


class Result(Message):
    """Finished items of a lease, each whole. The payload is a `captions` (or, from the broker, `failures`) table
    whose items are those of `ranges`, in order. `instance` and `number` together name the result."""

    TAG: ClassVar[str] = "RESULT"
    PAYLOAD: ClassVar[bool] = True
    lease: Id
    instance: Id
    number: Count
    ranges: Annotated[Ranges, Field(min_length=1)]
    table: Literal["captions", "failures"] = "captions"
    size: Annotated[int, Field(ge=0, le=MAX_FRAME_BYTES)]
    crc: Annotated[int, Field(ge=0, lt=1 << 32)]
    codec: Literal["none"] = "none"
    origin: Origin | None = None


class Acked(Part):
    """What became of one result, as told to its worker. Of a `duplicate` nothing is needed any more: all its items were
    stored before, or their redo was closed. `refused` is final: keep it aside, do not send it again."""

    instance: Id
    number: Count
    status: Literal["stored", "duplicate", "refused"]
    reason: Reason = ""


class Ack(Message):
    """These results are settled: forget them."""

    TAG: ClassVar[str] = "ACK"
    results: Annotated[tuple[Acked, ...], Field(max_length=512)]
    window: Count


class Resend(Message):
    """Send all unacked results again."""

    TAG: ClassVar[str] = "RESEND"


class FailedItem(Part):
    """An item that could not be captioned, and whose fault the worker takes it to be."""

    index: Index
    reason: Word
    detail: Annotated[str, Field(max_length=512)] = ""
    fault: Literal["item", "worker", "network"]


class Failed(Message):
    """Items of a current lease that could not be captioned. Acked like a result."""

    TAG: ClassVar[str] = "FAILED"
    lease: Id
    instance: Id
    number: Count
    items: Annotated[tuple[FailedItem, ...], Field(min_length=1, max_length=MAX_FAILED_ITEMS)]


class Release(Message):
    """The worker hands back these items of a current lease (all that are left, when empty). `why` is
    `feeder` when it cannot reach the feeder of the lease: it then gets another one, if there is one."""

    TAG: ClassVar[str] = "RELEASE"
    lease: Id
    ranges: Ranges = ()
    why: Literal["", "feeder"] = ""
