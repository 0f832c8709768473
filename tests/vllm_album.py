"""Pictures with known colours, as items; and what the fixtures of tests of the real vLLM hand out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from coloured import Coloured, draw, png
from engine_rig import LEASE, Outcomes
from PIL import Image

from cfbus.config import Config
from cfbus.core.outcome import Outcome, WorkItem
from cfbus.engines.base import Loaded
from cfbus.engines.vllm_engine import VllmEngine


@dataclass
class Album:
    """Pictures by number, with what is on each and the columns beside it."""

    count: int
    seed: int = 5
    columns: Mapping[str, object] = field(default_factory=dict)
    bytes_of: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dice = random.Random(self.seed)
        drawn = [draw(dice) for _ in range(self.count)]
        self.images: list[Image.Image] = [image for image, _ in drawn]
        self.seen: list[Coloured] = [seen for _, seen in drawn]

    def read(self, item: WorkItem) -> Loaded:
        data = self.bytes_of.get(item.index) or png(self.images[item.index])
        return Loaded(data, self.columns, "u", "{}")

    def items(self, slots: Sequence[str], count: int | None = None) -> list[WorkItem]:
        return [WorkItem(LEASE, "s", n, f"{n}.png", b"", tuple(slots)) for n in range(count or self.count)]


Open = Callable[[Config, Album, Outcomes], VllmEngine]
Captioned = Callable[[Config, Album], dict[int, Outcome]]
