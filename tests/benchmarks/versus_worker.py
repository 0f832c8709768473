"""A worker in the comparison: in place of vLLM it has the stub that the other side has too.

    python -m benchmarks.versus_worker --config cfbus.yaml --gpu-id 0

What the stub does is in the environment, see `stub_model`; STUB_BATCH is how many requests it takes at once. With
STUB_DECODES=0 no picture is decoded: a small one that was made up stands for each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from benchmarks import stub_model
from benchmarks.queued_model import QueuedModel, answer
from benchmarks.stub_gpu import serve

from cfbus.decoding import DecodePool
from cfbus.images import Picture

BATCH = int(os.environ.get("STUB_BATCH", "8"))


class StubModel(QueuedModel):
    """Takes up to BATCH of the requests that wait, and answers all of them after the stub's time for a batch."""

    async def work(self) -> None:
        while True:
            batch = [await self.queue.get()]
            await asyncio.sleep(0)
            while len(batch) < BATCH and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            if stub_model.BATCH_SECONDS:
                await asyncio.sleep(stub_model.BATCH_SECONDS)
            for done in batch:
                answer(done, stub_model.text())
            stub_model.note(len(batch))


class NoDecoding(DecodePool):
    """Looks at no file; every picture is the same grey one."""

    def __init__(self) -> None:
        super().__init__(0)

    def submit(self, data: bytes, then: Callable[[Picture], Any] | None = None) -> Future[Any]:
        picture = Picture(64, 64, bytes(3 * 64 * 64), 64, 64, "JPEG", len(data), bytes(32))
        future: Future[Any] = Future()
        future.set_result(picture if then is None else then(picture))
        return future


if __name__ == "__main__":
    serve(StubModel(), lambda pool: pool if stub_model.DECODES else NoDecoding())
