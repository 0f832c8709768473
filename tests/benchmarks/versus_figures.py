"""What the comparison with CaptionFlow found out, as its JSON keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from benchmarks.figures import ByProcess, Figures, Machine

Source: TypeAlias = Literal["folder", "tars"]


class Case(Figures):
    """What is captioned and how. ``encrypted`` is TLS there; CURVE is always on here."""

    source: Source
    workers: int
    prompts: int
    encrypted: bool = True
    decoded: bool = True
    images: int = 2000


class Pace(Figures):
    """One run at full speed. Seconds count from the start of the first process.

    ``images_per_second`` is from the first lease until a reader saw the last row on the disk; the first half's is from
    the first lease until half of the captions were generated.
    """

    side: str
    case: Case
    round: int
    images_per_second: float
    half_per_second: float
    cpu_ms: ByProcess
    peak_mib: ByProcess
    first_lease_seconds: float
    first_generated_seconds: float
    first_row_seconds: float
    last_to_disk_seconds: float
    bytes_per_caption: float
    cores_of_others: float


class Kill(Figures):
    """A run in which processes were ended when a share of the captions was generated, and started again.

    ``again`` is how many captions were generated and are in no row, ``missing`` how many images have none at the end,
    before a hand helped and after; ``hand`` is what a person then did, if it was needed.
    """

    side: str
    what: str
    source: Source
    round: int
    images: int
    generated: int
    rows: int
    doubled: int
    missing: int
    again: int
    seconds: float
    hand: str = ""
    missing_after_hand: int | None = None


class Versus(Figures):
    """All of it, or what there is of it so far.

    ``chosen`` are the patterns of the part that was asked for, ``planned`` and ``ended`` count runs of both sides;
    ``not_run`` says in a sentence what could not be run, and why.
    """

    when: str
    machine: Machine
    load: float
    version: str
    python: str
    engine_batch: int
    caption_chars: int
    chosen: Sequence[str] = ()
    planned: int
    ended: int = 0
    paces: Sequence[Pace] = ()
    kills: Sequence[Kill] = ()
    not_run: Sequence[str] = ()
