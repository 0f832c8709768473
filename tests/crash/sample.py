"""What the workloads store: two shards, two passes, and the results of a worker that never changes its mind.

Everything follows from the number of a result, so that what is found on a disk can be compared with what was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import checksum, encode_table
from cfbus.core.held import Use
from cfbus.core.outcome import Caption, EngineFacts, Outcome
from cfbus.core.results import pack
from cfbus.core.worker import WorkerRules

DATASET = "birds"
SHARDS = (("birds-00000", 40), ("birds-00001", 20))
PASSES = (("short", "long"), ("tags",))
INSTANCE = "2" * 16
_SLOTS = tuple(m.Slot(name=slot, prompt=slot, prompt_id=slot[:4]) for slots in PASSES for slot in slots)
SPEC = m.Spec(hash="0" * 16, engine="scripted", pixel_budget=1000, max_pixels=1000, slots=_SLOTS)
LONG = 20_000
"""So long is the caption of every seventh item: its row takes several pages."""

Row = tuple[str, int, int, str, str]
"""Shard, item index, pass, slot (or ``""`` of a failure), text."""


@dataclass(frozen=True)
class Part:
    """Items [start, end) of a shard in a pass, as one result; ``failed`` says that they could not be captioned."""

    number: int
    pass_number: int
    shard: int
    start: int
    end: int
    failed: bool = False

    def rows(self) -> list[Row]:
        """The rows that it becomes when all of it is new."""
        name = SHARDS[self.shard][0]
        slots = ("",) if self.failed else slots_of(self.pass_number)
        return [
            (name, index, self.pass_number, slot, text_of(name, index, slot))
            for index in range(self.start, self.end)
            for slot in slots
        ]


_PLACES: tuple[tuple[int, int, int, int, bool], ...] = (
    (1, 0, 0, 4, False),
    (1, 0, 4, 9, False),
    (1, 0, 9, 10, True),
    (1, 0, 2, 12, False),  # partly a duplicate: of it only 10 and 11 are new
    (1, 0, 12, 20, False),
    (1, 0, 20, 22, False),
    (1, 0, 22, 30, False),
    (1, 0, 30, 40, False),
    (1, 1, 0, 7, False),
    (1, 1, 7, 8, True),
    (1, 1, 8, 20, False),
    (2, 0, 0, 20, False),
    (2, 1, 0, 20, False),
    (2, 0, 20, 40, False),
)
PARTS = tuple(Part(number, *place) for number, place in enumerate(_PLACES, 1))


def slots_of(pass_number: int) -> tuple[str, ...]:
    """What a pass fills; redos are of the first one."""
    return PASSES[pass_number - 1 if pass_number <= len(PASSES) else 0]


def contributor_of(part: Part) -> str:
    """Who sent it."""
    return f"c-{part.number % 3}"


def text_of(shard: str, index: int, slot: str) -> str:
    """The caption of an item, or why there is none."""
    if not slot:
        return f"{shard}/{index} cannot be read"
    return f"{slot} of {shard}/{index}: ".ljust(LONG if index % 7 == 6 else 30, ".")


@lru_cache
def result(part: Part) -> tuple[m.Result, bytes]:
    """The result as the writer gets it from the broker."""
    name, length = SHARDS[part.shard]
    job = f"{name}:0-{length}@{part.pass_number}.1"
    slots = slots_of(part.pass_number)
    grant = m.Grant(
        lease=f"{part.pass_number:08x}{part.shard:08x}", pass_number=part.pass_number, shard=part.shard,
        shard_name=name, start=0, end=length, slots=slots, backup=False, ttl=1.0, window=0,
    )  # fmt: skip
    outcomes = [
        Outcome(grant.lease, index, tuple(Caption(text_of(name, index, slot)) for slot in slots))
        for index in range(part.start, part.end)
    ]
    rules = WorkerRules(INSTANCE, "worker", 1)
    message, payload = pack(outcomes, grant, Use(SPEC, 1), EngineFacts("scripted", "scripted-1"), rules, part.number)
    if part.failed:
        payload = _failures(name, part)
        message = message.model_copy(update={"table": "failures", "crc": checksum(payload), "size": len(payload)})
    origin = m.Origin(
        contributor=contributor_of(part), key="SHA256:x", job=job, pass_number=part.pass_number, shard=part.shard,
        received=1_700_000_000_000_000 + part.number,
    )  # fmt: skip
    return message.model_copy(update={"origin": origin}), payload


def _failures(name: str, part: Part) -> bytes:
    count = part.end - part.start
    columns: dict[str, Sequence[object]] = {
        "reason": ["undecodable"] * count, "fault": ["item"] * count, "attempts": [3] * count, "who": ["c-1"] * count,
        "detail": [text_of(name, index, "") for index in range(part.start, part.end)],
    }  # fmt: skip
    return encode_table(build("failures", count, columns))
