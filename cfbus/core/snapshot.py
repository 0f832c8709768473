"""What the broker tells those who watch: the STATS topics, whole and pure data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cfbus.bus.figures import EngineFigures, HostFigures, Load


class WorkerView(BaseModel):
    """One worker as the bus sees it. Rates in items per second. The last three are what it says of itself; None where
    it says nothing."""

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
    """The state of the run. ``why`` says what, if anything, keeps items from being leased."""

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
    writer: str
    why: str
    problem: str
    workers: int
    workers_starved: int
    leases_granted: int
    leases_ended: int
    backups_granted: int
    results_refused: int
    messages_refused: int
    duplicates: int
