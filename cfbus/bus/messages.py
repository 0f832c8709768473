"""The protocol: one frozen model per message, with its prose.

Every message on the bus is one of the classes below; ``docs/protocol.md`` takes its tables from
here. A model says what a header may hold; it knows nothing of frames, sockets or decisions.

Invariants: models are frozen, strict (no coercion) and closed (no unknown field); every string and
every sequence has a bound, so that no header can make the receiver do unbounded work, and what the cores
build stays below ``MAX_HEADER_BYTES``. Attribution (who sent it) is never a field that a peer fills in: the
broker takes it from the connection.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cfbus.bus.fields import MAX_CHUNK_ITEMS as MAX_CHUNK_ITEMS
from cfbus.bus.fields import MAX_FRAME_BYTES as MAX_FRAME_BYTES
from cfbus.bus.fields import Count, End, Id, Ids, Index, Part, PassNumber, Rate, Reason, Seconds, Slots, Text, Word
from cfbus.bus.fields import Message as Message
from cfbus.bus.fields import Ranges as Ranges
from cfbus.bus.fields import Role as Role
from cfbus.bus.fields import Slot as Slot
from cfbus.bus.fields import Spec as Spec
from cfbus.bus.figures import EngineFigures, HostFigures, Load

MAX_FAILED_ITEMS = 16


class StoreFacts(Part):
    """What a writer says of its store."""

    store_id: Id
    dataset: Annotated[str, Field(min_length=1, max_length=256)]
    position: Count


class Hello(Message):
    """A peer introduces itself; the first message on every connection, and again after ERROR `hello-first`.

    A worker names the leases that it still holds, so that a broker that restarted can take them up.
    A writer says which store it has and how far it is.
    """

    TAG: ClassVar[str] = "HELLO"
    role: Annotated[Role, Field(strict=False)]
    instance: Id
    software: Word
    name: Word
    concurrency: Annotated[int, Field(ge=0, le=100_000)] = 0
    held: Ids = ()
    store: StoreFacts | None = None


class Welcome(Message):
    """The broker takes the peer in and says how this bus is run."""

    TAG: ClassVar[str] = "WELCOME"
    software: Word
    store_id: Id | None
    dataset: Annotated[str, Field(max_length=256)]
    heartbeat_seconds: Seconds
    lease_seconds: Seconds
    window: Count
    generation: Count
    spec: Spec | None
    lost: Ids = ()


class Heartbeat(Message):
    """I am here: from peers with nothing else to say, from workers with their figures; answered with the same."""

    TAG: ClassVar[str] = "HEARTBEAT"
    rate: Rate = 0.0
    in_flight: Count = 0
    held: Count = 0
    unacked_bytes: Count = 0
    engine: EngineFigures | None = None
    load: Load | None = None
    host: HostFigures | None = None


class Lease(Message):
    """A worker has room for `want` items. It stands until it is granted, replaced, or the worker leaves."""

    TAG: ClassVar[str] = "LEASE"
    want: Annotated[int, Field(ge=1, le=MAX_CHUNK_ITEMS)]
    rate: Rate
    shard: Index | None = None


class Grant(Message):
    """A lease on items [start, end) of a shard in a pass; `done` are those in it that need nothing.

    The payload is the listing of these items (`listing` table). `ttl` counts from the grant, on the broker's clock.
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


class Stored(Part):
    """What became of one result. `ranges` are the items that are durable because of it or were before."""

    instance: Id
    number: Count
    status: Literal["stored", "duplicate", "refused"]
    pass_number: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    shard: Index = 0
    ranges: Ranges = ()
    new_items: Count = 0
    reason: Reason = ""


class Commit(Message):
    """All results up to `position` are durable. `after` is the position of the COMMIT before it: a broker that
    is not there has missed one and asks with SINCE. Repeated each second without entries."""

    TAG: ClassVar[str] = "COMMIT"
    after: Count
    position: Count
    results: Annotated[tuple[Stored, ...], Field(max_length=512)] = ()
    room: Count
    state: Literal["open", "full", "disk-full"] = "open"
    shards: Count
    passes: Count
    captions: Count
    dead_letters: Count


class Since(Message):
    """The broker wants the writer's whole state again, shards from number `shards` on."""

    TAG: ClassVar[str] = "SINCE"
    shards: Count


class PassFacts(Part):
    """A pass as the store knows it."""

    number: PassNumber
    slots: Slots


class State(Message):
    """A page of the writer's state, its payload a `shards` or `done` table. The pages of an answer to SINCE
    (`snapshot`) count from 0 and the last has `last` set; only when all came in order is the broker caught up.
    Also sent with new shards as they are listed."""

    TAG: ClassVar[str] = "STATE"
    PAYLOAD: ClassVar[bool] = True
    table: Literal["shards", "done"]
    first: Count
    position: Count
    passes: Annotated[tuple[PassFacts, ...], Field(max_length=64)] = ()
    snapshot: bool
    page: Count = 0
    last: bool


class Acked(Part):
    """What became of one result, as told to its worker. `refused` is final: keep it aside, do not send it again."""

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
    """The worker hands back these items of a current lease (all that are left, when empty)."""

    TAG: ClassVar[str] = "RELEASE"
    lease: Id
    ranges: Ranges = ()


class IndexShard(Message):
    """The broker needs the listing of items [start, end) of a shard."""

    TAG: ClassVar[str] = "INDEX"
    shard: Index
    start: Index
    end: End


class Listed(Message):
    """A page of a shard's listing from `start` on; the payload is a `listing` table."""

    TAG: ClassVar[str] = "LISTED"
    PAYLOAD: ClassVar[bool] = True
    shard: Index
    start: Index
    rows: Count


class Task(Message):
    """The broker asks the writer for work that takes a while. Doing one twice is harmless.

    `scan`: list what the source holds and is not listed yet. `open-pass`: make `slots` a new pass.
    `seal`: seal all that is durable. `jobs`, `contributors`: replace that snapshot by the payload.
    """

    TAG: ClassVar[str] = "TASK"
    PAYLOAD: ClassVar[bool] = True
    task: Id
    kind: Literal["scan", "open-pass", "seal", "jobs", "contributors"]
    slots: Slots | tuple[()] = ()


class Progress(Message):
    """How far a task is."""

    TAG: ClassVar[str] = "PROGRESS"
    task: Id
    count: Count


class Done(Message):
    """A task ended; `problem` is empty when it went well, else a sentence."""

    TAG: ClassVar[str] = "DONE"
    task: Id
    problem: Text = ""
    count: Count = 0


class Drain(Message):
    """To a worker: finish what you hold and take nothing new. To the broker: I do that and will leave."""

    TAG: ClassVar[str] = "DRAIN"


class Bye(Message):
    """The peer leaves; a worker's leases return at once."""

    TAG: ClassVar[str] = "BYE"


class Admin(Message):
    """An allow-listed verb with its arguments."""

    TAG: ClassVar[str] = "ADMIN"
    request: Id
    verb: Word
    arguments: Annotated[tuple[tuple[Word, Text], ...], Field(max_length=8)] = ()
    page: Count = 0


class Reply(Message):
    """The answer to ADMIN, a page at a time: `facts` for people and scripts, `problem` when it was refused."""

    TAG: ClassVar[str] = "REPLY"
    request: Id
    facts: Annotated[tuple[tuple[Word, Annotated[str, Field(max_length=256)]], ...], Field(max_length=40)] = ()
    problem: Text = ""
    page: Count = 0
    pages: Count = 1


class Error(Message):
    """Something was refused; never silence."""

    TAG: ClassVar[str] = "ERROR"
    code: Word
    sentence: Text
    retry_after: Seconds = 0.0
    fatal: bool = False


MESSAGES: tuple[type[Message], ...] = (
    Hello, Welcome, Heartbeat, Lease, Grant, Wait, Renew, Renewed, Result, Commit, Since, State, Ack, Resend,
    Failed, Release, IndexShard, Listed, Task, Progress, Done, Drain, Bye, Admin, Reply, Error,
)  # fmt: skip
BY_TAG: dict[str, type[Message]] = {message.TAG: message for message in MESSAGES}

_ANY_PEER: tuple[type[Message], ...] = (Hello, Heartbeat, Bye)
MAY_SEND: dict[Role, frozenset[type[Message]]] = {
    Role.WORKER: frozenset({*_ANY_PEER, Lease, Renew, Result, Failed, Release, Drain}),
    Role.WRITER: frozenset({*_ANY_PEER, Commit, State, Listed, Progress, Done}),
    Role.ADMIN: frozenset({*_ANY_PEER, Admin}),
    Role.FEEDER: frozenset(),
    Role.MONITOR: frozenset(),
    Role.ENROL: frozenset(),
}
"""Which role may send which message to the broker. What is not here is refused."""
