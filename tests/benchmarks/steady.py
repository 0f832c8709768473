"""A model that writes at a fixed speed, and knows how long it had nothing to do."""

from __future__ import annotations

import asyncio
import time

from benchmarks.queued_model import QueuedModel, answer

RATE = 30.0


class SteadyModel(QueuedModel):
    """One image every 1 / RATE seconds while there is any, or a whole batch; knows how long it had nothing to do."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._batch = batch
        self.idle = 0.0
        self.finished = 0

    async def work(self) -> None:
        due = time.monotonic()
        while True:
            asked = time.monotonic()
            waits = self.queue.qsize() < self._batch
            batch = [await self.queue.get() for _ in range(self._batch)]
            if waits:
                due = time.monotonic()
                self.idle += due - asked
            for done in batch:
                due += 1 / RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.finished += 1
                answer(done, "x")
