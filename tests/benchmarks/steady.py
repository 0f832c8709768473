"""A model that writes at a fixed speed, and knows how long it had nothing to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from scripted_model import Answer, Text

from cfbus.bus.fields import Sampling
from cfbus.bus.figures import EngineFigures
from cfbus.engines.vllm_running import Output, Wanted

RATE = 30.0


class SteadyModel:
    """One image every 1 / RATE seconds while there is any, or a whole batch; knows how long it had nothing to do."""

    model_config = None

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._queue: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.idle = 0.0
        self.finished = 0

    async def generate(self, prompt: Mapping[str, object], wanted: Wanted, name: str) -> AsyncIterator[Output]:
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._work())
        done: asyncio.Future[None] = loop.create_future()
        self._queue.put_nowait(done)
        await done
        yield Answer(name, [Text("x")])

    async def _work(self) -> None:
        due = time.monotonic()
        while True:
            asked = time.monotonic()
            waits = self._queue.qsize() < self._batch
            batch = [await self._queue.get() for _ in range(self._batch)]
            if waits:
                due = time.monotonic()
                self.idle += due - asked
            for done in batch:
                due += 1 / RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.finished += 1
                if not done.cancelled():
                    done.set_result(None)

    def check(self, sampling: Sampling) -> None:
        """Any will do."""

    def figures(self, items: int) -> EngineFigures:
        """All of them are in it."""
        return EngineFigures(running=items)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
