"""A picture that kills the real vLLM: a plugin of vLLM's own kind, for tests alone.

A picture that is magenta all over ends the process in which it reaches the model, at once. `plugins` makes a folder
for PYTHONPATH by which vLLM finds this in each of its processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

COLOUR = (255, 0, 255)


def register() -> None:
    """vLLM calls this in each process before it loads a model."""
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Model

    Model.embed_multimodal = watched(Model.embed_multimodal, lambda: os.kill(os.getpid(), signal.SIGKILL))


def watched(embed: Callable[..., Any], die: Callable[[], None]) -> Callable[..., Any]:
    """The model's way to look at pictures, but it dies of some."""

    def look(self: object, **given: Any) -> Any:
        if is_deadly(given.get("pixel_values"), given.get("image_grid_thw")):
            die()
        return embed(self, **given)

    return look


def is_deadly(pixels: Any, grids: Any) -> bool:
    """Whether one of these pictures is magenta all over; their patches stand one after the other."""
    if pixels is None or grids is None:
        return False
    start = 0
    for count in grids.reshape(-1, 3).prod(-1).tolist():
        patches = pixels[start : start + count].float().reshape(count, 3, -1)
        start += count
        red, green, blue = patches.mean(-1).mean(0).tolist()
        if patches.mean(-1).std(0).max() < 0.01 and min(red, blue) - green > 1:  # normalised or not
            return True
    return False
