"""What models that are none have in common: requests wait in a queue, and a task of the model's own answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from scripted_model import Answer, Text

from cfbus.bus.fields import Sampling
from cfbus.bus.figures import EngineFigures
from cfbus.engines.vllm_running import Output, Wanted


class QueuedModel:
    """Whoever asks waits until ``work``, which runs as long as the model, has set a text to the future in ``queue``."""

    model_config = None

    def __init__(self) -> None:
        self.queue: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def work(self) -> None:
        """Answer what is in the queue, for ever."""
        raise NotImplementedError

    async def generate(self, prompt: Mapping[str, object], wanted: Wanted, name: str) -> AsyncIterator[Output]:
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self.work())
        done: asyncio.Future[str] = loop.create_future()
        self.queue.put_nowait(done)
        yield Answer(name, [Text(await done)])

    def check(self, sampling: Sampling) -> None:
        """Any will do."""

    def figures(self, items: int) -> EngineFigures:
        """All of them are in it."""
        return EngineFigures(running=items)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


def answer(done: asyncio.Future[str], text: str) -> None:
    """Answer who has not gone."""
    if not done.cancelled():
        done.set_result(text)
