"""What a worker tells of itself beside its work: its engine, how busy that is kept, and its GPUs.

Parts of HEARTBEAT, for people who watch. Nothing is decided by them: they are the claims of a stranger.

Invariants: every field has a bound, and text has an alphabet without control characters, quotes and backslashes, so
that figures take no more room in JSON than they seem to; what is not known is absent, never zero.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cfbus.bus.fields import Count, Part, Rate, Share

MAX_GPUS = 16  # of a worker that are told
NAME_PATTERN = r"^[A-Za-z0-9 ._()/+:-]{1,64}$"

Told = Annotated[str, Field(pattern=NAME_PATTERN)]
State = Literal["saturated", "busy", "starved", "idle", "down"]
Reason = Literal[
    "", "reading", "decoding", "handing-out", "no-lease", "window-closed", "spool-full", "no-broker",
    "finished", "paused", "draining", "engine-down",
]  # fmt: skip


class EngineFigures(Part):
    """What an engine says of itself. vLLM counts requests (an image and a prompt), the others images."""

    reading: Count = 0
    decoding: Count = 0
    running: Count = 0
    waiting: Count = 0
    level: Count | None = None
    kv_usage: Share | None = None
    prefix_hits: Share | None = None
    image_hits: Share | None = None
    tokens_per_second: Rate | None = None


class Load(Part):
    """How busy the engine was kept in the last seconds, and what was missing when it was not."""

    state: State
    reason: Reason = ""
    starved: Share = 0.0
    images_per_second: Rate = 0.0


class GpuFigures(Part):
    """One GPU of the worker, as its driver tells it."""

    name: Told | None = None
    utilisation: Share | None = None
    memory_used: Count | None = None
    memory_total: Count | None = None
    celsius: Annotated[int, Field(ge=-100, le=1000)] | None = None
    watts: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)] | None = None


class HostFigures(Part):
    """The worker's GPUs. Absent where there is none, or where its library or driver is missing."""

    driver: Told | None = None
    gpus: Annotated[tuple[GpuFigures, ...], Field(max_length=MAX_GPUS)] = ()
