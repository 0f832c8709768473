"""What a worker tells the broker of itself: the same for the daemon that tells it and for the person who asks first.

`cfbus-gpu --show-report` prints it without a broker, so that whoever lends a GPU sees what they give away. It knows
nothing of sockets: the messages are made by the worker's core, as for the bus.

Invariant: nothing but the report goes to standard output.
"""

from __future__ import annotations

import json
import os
from hashlib import blake2b

from cfbus import runtime
from cfbus.config import Config
from cfbus.config_sections import Worker as WorkerSection
from cfbus.core.effects import Send
from cfbus.core.measuring import Measured
from cfbus.core.outcome import EngineFacts, Outcome, WorkItem
from cfbus.core.worker import Worker, WorkerRules
from cfbus.daemons.flags import Start
from cfbus.engines.base import Loaded
from cfbus.engines.opening import open_engine
from cfbus.errors import EXIT_DONE
from cfbus.gpus import GpuWatch, watch_of

FIRST_ANSWER_SECONDS = 10.0
LABEL_CHARS = 32


def label(gpu_id: str) -> str:
    """GPUs as a part of names and of the spool's path: ``0``, ``0+1``; of many names the first and how many more."""
    named = gpu_id.replace("/", "_").split(",")
    short = "+".join(named)
    if len(short) <= LABEL_CHARS:
        return short
    digest = blake2b(gpu_id.encode(), digest_size=4).hexdigest()
    return f"{named[0][:17]}+{len(named) - 1}-{digest}"


def rules_of(worker: WorkerSection, *, reads: bool = True) -> WorkerRules:
    """How this worker is run, and what it is called; the end of the name tells the workers of a host apart."""
    end = f"-{label(worker.gpu_id)}"
    name = worker.name[: 64 - len(end)] + end
    return WorkerRules(runtime.new_id(), name, worker.concurrency, reads=reads)


def gpus_of(settings: Config) -> GpuWatch | None:
    """The GPUs that the engine was given; only vLLM is given any."""
    return watch_of(os.environ) if settings.captions.engine == "vllm" else None


def show(begin: Start) -> int:
    """Print the report; loads the engine as the daemon does, because it is the engine that is reported on."""
    stdout = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints meanwhile
    engine, pool = open_engine(begin.config, _read, _ignored, begin.origins)
    gpus = gpus_of(begin.config)
    try:
        measured = Measured(engine.figures(), gpus.newest(FIRST_ANSWER_SECONDS) if gpus is not None else None)
        said = report(rules_of(begin.config.worker), engine.facts, measured)
    finally:
        engine.close()
        if pool is not None:
            pool.close()
        if gpus is not None:
            gpus.close()
    with os.fdopen(stdout, "w", encoding="utf-8") as out:
        print(json.dumps(said, indent=2), file=out)
    return EXIT_DONE


def report(rules: WorkerRules, facts: EngineFacts, measured: Measured) -> dict[str, object]:
    """The messages as the core makes them, and what stands in each row beside caption and picture."""
    core = Worker(rules, facts, runtime.now())
    (hello,) = core.connected(runtime.now())
    assert isinstance(hello, Send)
    core.measured(measured, runtime.now())
    rows = {"worker": rules.name, "engine": facts.engine, "model": facts.model, "model_revision": facts.model_revision}
    return {
        "HELLO": hello.message.model_dump(mode="json"),
        "HEARTBEAT": core.heartbeat().model_dump(mode="json"),
        "rows": rows,
    }


def _read(item: WorkItem) -> Loaded:
    raise AssertionError(f"nothing is read for a report: {item.key}")


def _ignored(outcome: Outcome) -> None:
    """No item was begun, so none ends."""
