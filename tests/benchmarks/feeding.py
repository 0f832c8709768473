"""How well a model is fed: the real reading, decoding and asking, before a model that is scripted to a fixed speed.

    python tests/benchmarks/feeding.py

The model finishes one image after the other at RATE, as long as it has any; it idles when it has none. Items are
JPEGs of 1024 x 768 pixels in a folder. Two ways: 64 in flight, each replaced when it is finished, as the worker does
it; and lock-step batches of 8, as others do it: the next eight are read and decoded when the last are finished, and the
model begins when all eight are there. The
second is there to show that the meter measures: it must find more than 10 % of idling, else it is broken.

"CPU per image" is this process's own: the bus is not in it, decoding is in children and not in it either.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from engine_rig import LEASE, spec_of  # noqa: E402
from PIL import Image  # noqa: E402
from scripted_model import Answer, PlainTemplate, Text  # noqa: E402

from cfbus.bus.fields import Sampling  # noqa: E402
from cfbus.bus.figures import EngineFigures  # noqa: E402
from cfbus.config_vllm import Vllm  # noqa: E402
from cfbus.core.outcome import Outcome, WorkItem  # noqa: E402
from cfbus.decoding import DecodePool  # noqa: E402
from cfbus.engines.base import Loaded  # noqa: E402
from cfbus.engines.vllm_engine import VllmEngine  # noqa: E402
from cfbus.engines.vllm_host import Host  # noqa: E402
from cfbus.engines.vllm_running import Output, Wanted  # noqa: E402
from cfbus.images import Limits  # noqa: E402

RATE = 30.0
IN_FLIGHT, BATCH = 64, 8
SECONDS = 20.0
WARM_SECONDS = 4.0
FILES = 32


class SteadyModel:
    """One image every 1 / RATE seconds while there is any, or a whole batch; knows how long it had nothing to do."""

    model_config = None

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._queue: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.idle = 0.0

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


@dataclass
class Measured:
    """Shares and seconds of one way of feeding."""

    images: int
    idle: float
    cpu_ms: float
    least_in_flight: int


def measure(folder: Path, *, lock_step: bool) -> Measured:
    """Feed for SECONDS; what was measured after WARM_SECONDS."""
    paths = sorted(folder.iterdir())
    model = SteadyModel(BATCH if lock_step else 1)
    host = Host({"model": "scripted"}, PlainTemplate(), golden=False, load=lambda arguments: model)
    host.start()
    finished = threading.Semaphore(0)
    pool = DecodePool(1, Limits())

    def post(outcome: Outcome) -> None:
        assert outcome.failure is None or outcome.failure.reason == "closed", outcome.failure
        finished.release()

    def read(item: WorkItem) -> Loaded:
        return Loaded(paths[item.index % len(paths)].read_bytes())

    spec = spec_of("vllm", {"caption": "A prompt."})
    assert spec.model is not None
    engine = VllmEngine(host, Vllm(model=spec.model.name), "0", read, pool, post)
    engine.use(spec)
    made = 0

    def begin(count: int) -> None:
        nonlocal made
        items = [WorkItem(LEASE, "s", n, str(n), b"", ("caption",)) for n in range(made, made + count)]
        made += count
        engine.submit(items)

    level = BATCH if lock_step else IN_FLIGHT
    begin(level)
    began = time.monotonic()
    start: tuple[float, float, float, int] | None = None
    done, least = 0, level
    while time.monotonic() - began < WARM_SECONDS + SECONDS:
        for _ in range(level if lock_step else 1):
            finished.acquire()
            done += 1
        begin(level if lock_step else 1)
        least = min(least, made - done)
        if start is None and time.monotonic() - began >= WARM_SECONDS:
            start = time.monotonic(), time.process_time(), model.idle, done
    assert start is not None
    seconds, images = time.monotonic() - start[0], done - start[3]
    result = Measured(
        images, (model.idle - start[2]) / seconds, (time.process_time() - start[1]) * 1000 / images, least
    )
    engine.close()
    pool.close()
    return result


def main() -> int:
    """Measure both ways, and say whether the meter can be believed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(FILES):
            noise = Image.effect_noise((1024, 768), 40 + number).convert("RGB")
            noise.save(folder / f"{number}.jpg", quality=85)
        steady = measure(folder, lock_step=False)
        stepped = measure(folder, lock_step=True)
    for what, found in ((f"{IN_FLIGHT} in flight", steady), (f"lock-step batches of {BATCH}", stepped)):
        print(
            f"{what}: {found.images} images, model idle {found.idle:.1%}, {found.cpu_ms:.1f} ms CPU per image,"
            f" at least {found.least_in_flight} in flight"
        )
    if stepped.idle <= 0.10:
        print("The meter is broken: lock-step must idle more than 10 %.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
