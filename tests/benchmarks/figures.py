"""What a benchmark run found out, as its JSON keeps it. Data only: the tables of the docs are made of nothing else.

Rates are per second, ``cpu_us`` microseconds of processor time per caption, ``peak_mib`` the largest resident memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

ByProcess: TypeAlias = Mapping[str, float]


class Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(Figures):
    """Where and with what."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    file_system: str
    python: str
    pyzmq: str
    libzmq: str
    pyarrow: str
    sqlite: str
    revision: str
    changed_files: int


class Run(Figures):
    """One `cfbus run`. Seconds count from its start."""

    workers: int
    durable: float
    sealed: float
    first_lease_seconds: float
    first_caption_seconds: float
    cpu_us: ByProcess
    peak_mib: ByProcess
    parquet_bytes: int
    cores_of_others: float


class Limit(Figures):
    """One run of the limit, directly after the run that stands at the same place in the report."""

    rate: float
    cpu_us: float
    peak_mib: float
    parquet_bytes: int
    frame_bytes: int
    cores_of_others: float


class Stage(Figures):
    """The least that a stage of the pipeline does, by itself; ``unit`` says what is counted."""

    name: str
    unit: str
    rate: float
    cpu_us: float
    mib_per_second: float


class Core(Figures):
    """The broker's core alone, without sockets, in a second of the processor."""

    grants: float
    results: float
    commits: float
    commits_settled: float


class Memory(Figures):
    """What the broker's core takes for a listing of which a share is done in scattered ranges."""

    items: int
    share: float
    length: int
    ranges: int
    mib: float
    bytes_per_range: float
    seconds: float


class Listing(Figures):
    """A source that lists; ``bare_seconds`` is the least that there is to do, ``more_mib`` the memory that it took."""

    kind: str
    items: int
    seconds: float
    cpu_seconds: float
    first_shard_seconds: float
    bare_seconds: float
    more_mib: float
    run_first_lease_seconds: float | None = None
    run_listed_seconds: float | None = None


class Reading(Figures):
    """A source that is read by one process, and the same bytes read `plainly`, in as few lines as that takes.

    For what is served by another process, the seconds of the processor are that one's.
    """

    what: str
    items: int
    bytes: int
    seconds: float
    cpu_seconds: float
    plainly: str
    plain_seconds: float
    plain_cpu_seconds: float


class Readings(Figures):
    """All of them, and the requests that 1,000 items of a tar in S3 take, in blocks and item by item."""

    when: str
    machine: Machine
    listed: Reading
    read: Sequence[Reading]
    s3_requests: tuple[float, float]


class CatchUp(Figures):
    """Real processes on a store of which every other item is done. Seconds count from the start of the processes."""

    ranges: int
    items: int
    open_seconds: float
    catch_up_seconds: float
    first_lease_seconds: float
    cpu_seconds: ByProcess
    peak_mib: ByProcess


class Billion(Figures):
    """What a core takes for a billion items: when they are listed, and when all of them are done too."""

    part: str
    shard_items: int
    shards: int
    listed_mib: float
    done_mib: float
    seconds: float = 0.0


class Peers(Figures):
    """So many CURVE peers on one broker, which say what idle workers say; ``heartbeat_cores`` is the broker's."""

    peers: int
    join_seconds: float
    kib_each: float
    heartbeat_cores: float
    back_seconds: float
    watching: str = ""


class Growth(Figures):
    """How costs grow: in each row what grows, then each cost."""

    name: str
    grows: str
    costs: Sequence[str]
    rows: Sequence[Sequence[float]]


class Growths(Figures):
    """All curves of one run."""

    when: str
    machine: Machine
    load: float
    curves: Sequence[Growth]


class End(Figures):
    """How late the end of a simulated run was after the ideal. Seconds of the simulated clock; counts are items."""

    seed: int
    items: int
    ideal: float
    end: float
    captioned_twice: int
    thrown_away: int
    lost: int
    leases: int
    backups: int
    messages: int


class RealEnd(Figures):
    """The same of real processes. ``first_to_stop`` is when the first worker had its last result."""

    items: int
    ideal: float
    end: float
    first_to_stop: float
    waste: float
    backups: int
    workers: int
    slowest: float
    fastest: float


class Ends(Figures):
    """All of them."""

    when: str
    machine: Machine
    load: float
    simulated: Sequence[End]
    real: Sequence[RealEnd]


class Package(Figures):
    name: str
    version: str
    mib: float


class Extras(Figures):
    """What the part ``large`` measures."""

    core: Core
    memory: Sequence[Memory]
    listings: Sequence[Listing] = ()
    catch_up: CatchUp | None = None
    billion: Sequence[Billion] = ()
    help_seconds: Sequence[float]
    packages: Sequence[Package]


class Large(Figures):
    """Large datasets, the broker's core alone, listings and sizes."""

    when: str
    machine: Machine
    load: float
    extras: Extras


class Report(Figures):
    """The product and the limit, in turns; ``stages`` are those of all rounds."""

    when: str
    items: int
    machine: Machine
    runs: Sequence[Run]
    limits: Sequence[Limit]
    stages: Sequence[Stage] = ()
    load: float
