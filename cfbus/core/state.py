"""What the broker's core knows of its bus: the rules, the peers, the writer, the counts. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from cfbus.bus import messages as m
from cfbus.core.effects import Connection, LeaseRow, Peer
from cfbus.core.limits import Limits

NO_FIGURES = m.Heartbeat()


@dataclass(frozen=True, slots=True)
class Rules:
    """How this bus is run; from the configuration."""

    dataset: str
    spec: m.Spec
    instance: str
    chunk_size: int = 1000
    lease_seconds: float = 120.0
    heartbeat_seconds: float = 5.0
    max_attempts: int = 3
    generation: int = 1
    started: int = 0  # when this broker's process was, by its wall clock; for people
    accept_loss: bool = False
    delivery: str = "auto"
    limits: Limits = field(default_factory=Limits)

    @property
    def leases_per_key(self) -> int:
        """The most leases of one key."""
        return self.limits.leases


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the ledger kept from before."""

    store_id: str = ""
    position: int = 0
    leases: tuple[LeaseRow, ...] = ()
    granted: int = 0
    generation: int = 0
    spec: str = ""


@dataclass(eq=False)
class PeerState:
    """A peer that has introduced itself."""

    peer: Peer
    instance: str
    name: str
    concurrency: int
    heard: float
    rate: float = 0.0
    in_flight: int = 0
    unacked_bytes: int = 0
    chunk: int = 0  # how many items it got last, while its rate is unknown
    draining: bool = False
    reads: bool = True
    feeds_at: str = ""
    answer: m.Applied | None = None  # what it said of the newest generation that it told of
    figures: m.Heartbeat = NO_FIGURES  # what it told last of engine and GPUs; for those who watch, never for leases


@dataclass(eq=False)
class WriterState:
    """The one writer."""

    connection: Connection
    store_id: str
    position: int
    heard: float
    room: int = m.MAX_FRAME_BYTES
    state: str = "open"
    caught_up: bool = False
    next_page: int = 0  # of the state that it is telling


@dataclass(eq=False)
class Counts:
    """What happened so far."""

    granted: int = 0
    ended: int = 0
    backups: int = 0
    refused_results: int = 0
    refused_messages: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    dropped_without_writer: int = 0
    noticed: dict[str, int] = field(default_factory=dict)

    def notice(self, name: str) -> None:
        """Something that only somebody broken or hostile does, or that is not for long."""
        self.noticed[name] = self.noticed.get(name, 0) + 1

    def refuse_result(self, why: str) -> None:
        """A result that goes no further; ``why`` is one of few sentences of ours."""
        self.refused_results += 1
        self.notice(f"result.{why}")
