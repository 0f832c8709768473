"""How well a model is fed: the real reading, decoding and asking, before a model that is scripted to a fixed speed.

    python tests/benchmarks/feeding.py [--write-docs]

The model finishes one image after the other at RATE, as long as it has any; it idles when it has none. Items are
JPEGs of 1024 x 768 pixels in a folder. Two ways of feeding it: 64 in flight, each replaced when it is finished, as the
worker does it; and lock-step batches of 8, as others do it: the next eight are read and decoded when the last are
finished, and the model begins when all eight are there. The second is there to show that the meter measures: it must
find more than 10 % of idling, else it is broken.

A third way is a whole `cfbus-gpu` on a real bus, with broker and writer beside it: its "CPU per image" is what bus,
reading, feeding and asking take together in the worker's process, without decoding, which is in children. In the other
two the bus is not in it. ``--write-docs`` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import layout  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from benchmarks.steady import RATE, SteadyModel  # noqa: E402
from engine_rig import LEASE, spec_of  # noqa: E402
from PIL import Image  # noqa: E402
from processes.support import Nursery, Terminals, until  # noqa: E402
from scripted_model import PlainTemplate  # noqa: E402

from cfbus.config_vllm import Vllm  # noqa: E402
from cfbus.core.outcome import Outcome, WorkItem  # noqa: E402
from cfbus.decoding import DecodePool  # noqa: E402
from cfbus.engines.base import Loaded  # noqa: E402
from cfbus.engines.vllm_engine import VllmEngine  # noqa: E402
from cfbus.engines.vllm_host import Host  # noqa: E402
from cfbus.images import Limits  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- feeding: begin -->", "<!-- feeding: end -->"
IN_FLIGHT, BATCH = 64, 8
SECONDS = 20.0
WARM_SECONDS = 4.0
FILES = 32


@dataclass
class Measured:
    """Shares and seconds of one way of feeding."""

    images: int
    idle: float
    cpu_ms: float
    least_in_flight: int | None


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


def measure_on_the_bus(folder: Path, work: Path) -> Measured:
    """The same of a worker on a real bus; there are enough images for all of it."""
    images = work / "images"
    images.mkdir()
    files = sorted(folder.iterdir())
    for number in range(int(RATE * (WARM_SECONDS + SECONDS) * 1.5)):
        os.link(files[number % len(files)], images / f"{number:05d}.jpg")
    (work / "said").mkdir()
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    nursery = Nursery(work / "said")
    try:
        settings = ("captions.engine=vllm", "vllm.model=scripted", "worker.decoders=1")
        bus = Terminals(nursery, work / "bus", *settings, f"worker.concurrency={IN_FLIGHT}", images=images)
        figures = work / "figures"
        daemons = [bus.start("broker"), bus.start("writer")]
        daemons.append(nursery.start("benchmarks.feeding_worker", figures, "--config", bus.config))
        until("the first image is finished", lambda: any(line[3] for line in _lines(figures)))
        began = next(line[0] for line in _lines(figures) if line[3])
        end = began + WARM_SECONDS + SECONDS
        until("the time is over", lambda: _lines(figures)[-1][0] >= end, 4 * (WARM_SECONDS + SECONDS))
        for daemon in reversed(daemons):
            daemon.process.terminate()
            daemon.ends(0)
    finally:
        nursery.close()
    inside = [line for line in _lines(figures) if began + WARM_SECONDS <= line[0] <= end]
    (at, cpu, idle, done), (later, cpu_then, idle_then, done_then) = inside[0], inside[-1]
    count = int(done_then - done)
    return Measured(count, (idle_then - idle) / (later - at), (cpu_then - cpu) * 1000 / count, None)


def _lines(figures: Path) -> list[list[float]]:
    """The lines that are whole."""
    text = figures.read_text() if figures.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def shown(found: dict[str, Measured]) -> str:
    """The figures as a table, and where they are from."""
    rows = [["", "images", "model idle", "CPU ms an image, the worker's process", "least in flight"]]
    for what, one in found.items():
        least = "" if one.least_in_flight is None else str(one.least_in_flight)
        rows.append([what, str(one.images), f"{one.idle:.1%}", f"{one.cpu_ms:.1f}", least])
    on = machine(ROOT, ROOT)
    changed = f" with {on.changed_files} files changed" if on.changed_files else ""
    where = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, revision {on.revision}{changed}. {on.cores} cores of {on.processor},"
        f" Python {on.python}; {SECONDS:.0f} s each, one process that decodes; the load of the machine was"
        f" {os.getloadavg()[1]:.1f}."
    )
    return f"{where}\n\n{layout.table(rows)}"


def main(arguments: Sequence[str]) -> int:
    """Measure, and say whether the meter can be believed."""
    parser = argparse.ArgumentParser(prog="feeding.py", description="Measure how well a model is fed.")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder, work = Path(name, "files"), Path(name, "work")
        folder.mkdir()
        work.mkdir()
        for number in range(FILES):
            noise = Image.effect_noise((1024, 768), 40 + number).convert("RGB")
            noise.save(folder / f"{number}.jpg", quality=85)
        found = {
            f"{IN_FLIGHT} in flight, without the bus": measure(folder, lock_step=False),
            f"{IN_FLIGHT} in flight, `cfbus-gpu` on the bus": measure_on_the_bus(folder, work),
            f"lock-step batches of {BATCH}, without the bus": (stepped := measure(folder, lock_step=True)),
        }
    text = shown(found)
    sys.stdout.write(f"{text}\n")
    if stepped.idle <= 0.10:
        sys.stdout.write("The meter is broken: lock-step must idle more than 10 %.\n")
        return 1
    if flags.write_docs:
        layout.put(PAGE, BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
