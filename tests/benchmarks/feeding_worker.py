"""A real worker on the bus whose model is scripted to a fixed speed: for `feeding.py`, which starts it.

    python -m benchmarks.feeding_worker FIGURES --config cfbus.yaml

It is `cfbus-gpu` with all that is in it but vLLM itself. Every tenth of a second it adds a line to FIGURES: the time,
the processor time of this process with all its threads and without its children, how long the model was idle, and how
many images it has finished.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.steady import SteadyModel
from scripted_model import PlainTemplate

from cfbus.config import Config
from cfbus.daemons import gpu
from cfbus.decoding import DecodePool
from cfbus.engines import opening
from cfbus.engines.base import Post, Read
from cfbus.engines.vllm_engine import VllmEngine
from cfbus.engines.vllm_host import Host
from cfbus.errors import CfbusError

EVERY_SECONDS = 0.1


def main() -> None:
    """Serve, as `cfbus-gpu` does."""
    figures = Path(sys.argv.pop(1))
    model = SteadyModel(1)

    def open_steady(
        settings: Config,
        origins: Mapping[str, str],
        read: Read,
        pool: DecodePool,
        post: Post,
        give_up: Callable[[CfbusError], None] | None,
        readers: int,
    ) -> VllmEngine:
        host = Host({"model": settings.vllm.model}, PlainTemplate(), golden=False, load=lambda arguments: model)
        host.start()
        return VllmEngine(host, settings.vllm, "0", read, pool, post, readers=readers)

    vars(opening)["open_vllm"] = open_steady
    threading.Thread(target=_tell, args=(figures, model), daemon=True).start()
    gpu.main()


def _tell(figures: Path, model: SteadyModel) -> None:
    with figures.open("w") as file:
        while True:
            line = [time.monotonic(), time.process_time(), model.idle, model.finished]
            file.write(json.dumps(line) + "\n")
            file.flush()
            time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
