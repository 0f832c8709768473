"""What the broker tells those who watch: the STATS topics, whole and pure data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cfbus.bus.figures import EngineFigures, HostFigures, Load


class WorkerView(BaseModel):
    """One worker as the bus sees it. Rates in items per second. ``job`` is the lease that it works on, ``captioned`` of
    ``items`` how far it is with all it holds. The last three are what it says of itself; None where it says nothing."""

    model_config = ConfigDict(frozen=True)

    name: str
    contributor: str
    instance: str
    rate: float
    in_flight: int
    leases: int
    unacked_bytes: int
    heard_seconds_ago: float
    waiting: bool
    draining: bool
    job: str
    captioned: int
    items: int
    engine: EngineFigures | None = None
    load: Load | None = None
    host: HostFigures | None = None


class WorkersPage(BaseModel):
    """Some of the workers, the ``first`` of them being number ``first`` of ``total``."""

    model_config = ConfigDict(frozen=True)

    first: int
    total: int
    workers: tuple[WorkerView, ...]


class Status(BaseModel):
    """The state of the run. ``why`` says what, if anything, keeps items from being leased. Rates are items per second:
    ``rate`` over the last minute, ``rate_now`` over ten seconds, ``rate_quarter`` over a quarter of an hour."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    store_id: str
    generation: int
    items: int
    done: int
    leased: int
    captions: int
    dead_letters: int
    to_try_again: int
    passes: int
    listing: bool
    paused: bool
    finished: bool
    sealed: bool
    position: int
    rate: float
    rate_now: float
    rate_quarter: float
    writer: str
    why: str
    problem: str
    workers: int
    feeders: int
    workers_starved: int
    leases_granted: int
    leases_ended: int
    backups_granted: int
    results_refused: int
    messages_refused: int
    duplicates: int
    unsealed_bytes: int
    unacked_bytes: int
    window: int


class Throughput(BaseModel):
    """Items per second in each ``seconds`` of the last quarter of an hour, oldest first."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    rates: tuple[float, ...]


class SlotQuality(BaseModel):
    """The captions of a slot since the writer started. ``lengths`` by class: empty, below 16 bytes, below 32, …"""

    model_config = ConfigDict(frozen=True)

    slot: str
    captions: int
    tokens: int
    empty: int
    truncated: int
    refused: int
    repeated: int
    lengths: tuple[int, ...]


class Quality(BaseModel):
    """What the captions are like."""

    model_config = ConfigDict(frozen=True)

    slots: tuple[SlotQuality, ...]


class Standing(BaseModel):
    """A contributor, and how many captions the store has of it."""

    model_config = ConfigDict(frozen=True)

    contributor: str
    name: str
    captions: int
    workers: int
    rate: float


class Leaderboard(BaseModel):
    """The contributors with the most captions; ``total`` counts all."""

    model_config = ConfigDict(frozen=True)

    total: int
    contributors: tuple[Standing, ...]


class Happening(BaseModel):
    """One thing that happened: ``at`` in seconds since the epoch, UTC."""

    model_config = ConfigDict(frozen=True)

    at: float
    event: str
    facts: tuple[tuple[str, str], ...]


class Activity(BaseModel):
    """What happened last, the newest at the end."""

    model_config = ConfigDict(frozen=True)

    events: tuple[Happening, ...]


class Refusals(BaseModel):
    """What the broker refused, dropped or cut since it started: how often, by name."""

    model_config = ConfigDict(frozen=True)

    counts: dict[str, int]
