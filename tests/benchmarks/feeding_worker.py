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
from pathlib import Path

from benchmarks.steady import SteadyModel
from benchmarks.stub_gpu import serve

EVERY_SECONDS = 0.1


def main() -> None:
    """Serve, as `cfbus-gpu` does."""
    figures = Path(sys.argv.pop(1))
    model = SteadyModel(1)
    threading.Thread(target=_tell, args=(figures, model), daemon=True).start()
    serve(model)


def _tell(figures: Path, model: SteadyModel) -> None:
    with figures.open("w") as file:
        while True:
            line = [time.monotonic(), time.process_time(), model.idle, model.finished]
            file.write(json.dumps(line) + "\n")
            file.flush()
            time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
