"""What a core asks its shell to do, in the order given.

The shell's one policy: what must be durable is durable before anything that depends on it is sent.
So ``Save…`` effects are carried out, and committed, before the ``Send`` effects of the same step.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from cfbus.bus.messages import Admin, Enrol, Message, Ranges, Result, Role, Spec, Way

Connection = Hashable
"""One peer's way to us. Whoever holds it can be answered; a new connection is a new value."""
Fact = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a message is from, as the key table knows it now."""

    connection: Connection
    key: str  # fingerprint
    contributor: str
    role: Role
    public: str = ""  # the key itself, Z85
    key_expires: int = 0  # microseconds UTC; 0: never


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a connection."""

    to: Connection
    message: Message
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Note:
    """Something happened that people may want to read: a log line and the activity feed."""

    event: str
    facts: tuple[tuple[str, Fact], ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease as the ledger keeps it."""

    lease: str
    job: str
    pass_number: int
    shard: int
    start: int
    end: int
    contributor: str
    key: str
    instance: str
    backup: bool
    current: bool


@dataclass(frozen=True, slots=True)
class SaveLease:
    """Keep this lease, before its GRANT is sent."""

    row: LeaseRow


@dataclass(frozen=True, slots=True)
class AskConfig:
    """An admin asks about the configuration, or wants it read again; the shell answers."""

    peer: Peer
    name: str
    request: Admin


@dataclass(frozen=True, slots=True)
class AskLedger:
    """An admin asks whether the ledger says what the broker knows; the shell answers."""

    peer: Peer
    name: str
    request: Admin


@dataclass(frozen=True, slots=True)
class NoteCall:
    """An admin's call that the core has dealt with: a line in the audit log, durable before the answer is sent."""

    peer: Peer
    name: str
    request: Admin
    outcome: str = "done"


@dataclass(frozen=True, slots=True)
class AskRegistry:
    """An admin's call about keys, contributors, invites or the audit log: the shell asks the registry and answers."""

    peer: Peer
    name: str
    request: Admin


@dataclass(frozen=True, slots=True)
class EnrolKey:
    """Who holds an invite wants a key let in: the shell asks the registry and answers."""

    peer: Peer
    request: Enrol


@dataclass(frozen=True, slots=True)
class DropLeases:
    """Forget these leases: their shard's pass is complete."""

    leases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SavePosition:
    """The store and its last position that we know to be durable."""

    store_id: str
    position: int


@dataclass(frozen=True, slots=True)
class SaveGeneration:
    """The number of the configuration that holds, and the hash of its spec: known before any peer is told."""

    generation: int
    spec: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Going on would break a promise or make no sense. The shell ends with this exit code and sentence."""

    sentence: str
    hint: str = ""
    exit_code: int = 78


@dataclass(frozen=True, slots=True)
class Leave:
    """What an admin wanted to be waited for has come: the broker's shell ends, well."""


@dataclass(frozen=True, slots=True)
class StartTask:
    """The writer's shell should do this work and report its end to the core."""

    task: str
    kind: str
    slots: tuple[str, ...]
    payload: bytes = field(repr=False)
    verb: str = ""
    arguments: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ReadListing:
    """The writer's shell should answer with this part of a shard's listing."""

    to: Connection
    shard: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Spool:
    """The worker's shell should keep this unacked result in a file."""

    instance: str
    number: int
    message: Result
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unspool:
    """The result is settled: remove its file. With a reason it was refused: keep it aside with that."""

    instance: str
    number: int
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Captions of these items are not needed any more."""

    lease: str
    pairs: Ranges


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """The worker's shell reads the images of this lease from that feeder."""

    lease: str
    way: Way


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing more is read of this lease, which had a feeder."""

    lease: str


@dataclass(frozen=True, slots=True)
class UseSpec:
    """Items that begin from now on are captioned by this."""

    spec: Spec
    generation: int


@dataclass(frozen=True, slots=True)
class ProbeRoom:
    """The writer's shell should see whether the disk has room again, and tell the core if so."""


Effect = (
    Send
    | Spool
    | Unspool
    | Abandon
    | ReadFrom
    | Forget
    | UseSpec
    | Note
    | NoteCall
    | AskRegistry
    | EnrolKey
    | SaveLease
    | DropLeases
    | SavePosition
    | SaveGeneration
    | AskConfig
    | AskLedger
    | Leave
    | Stop
    | StartTask
    | ReadListing
    | ProbeRoom
)
