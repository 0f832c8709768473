"""`make demo ENGINE=vllm`: the real vLLM on the CPU with a tiny model, from drawn pictures to a table of captions.

The model was made for this and for tests: it knows eight colours and three shapes, and is sure of the colours alone. A
real model is a matter of one key (vllm.model) and a GPU.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

import engine_vllm  # noqa: E402
import pyarrow.dataset as ds  # noqa: E402
from coloured import BRIEF, DETAILED, draw  # noqa: E402

from cfbus.tools.demo import Caption, show  # noqa: E402
from cfbus.tools.screen import screen  # noqa: E402

COUNT, SHOWN = 24, 8


def main() -> int:
    """Draw, caption, show."""
    out = Path("demo-out").absolute()
    pictures = out / "coloured"
    pictures.mkdir(parents=True, exist_ok=True)
    dice = random.Random(4)
    for number in range(COUNT):
        image, seen = draw(dice)
        image.save(pictures / f"{number:02d}-{seen.colour}-{seen.shape}-on-{seen.ground}.png")
    file = out / "vllm.yaml"
    vllm = {**engine_vllm.ARGUMENTS, "sampling": engine_vllm.GREEDY}
    slots = {"detailed": DETAILED, "brief": BRIEF}
    file.write_text(json.dumps({"vllm": vllm, "captions": {"engine": "vllm", "slots": slots}}))  # JSON is YAML
    print("Loading vLLM takes 20 seconds to two minutes on a CPU; the captions then take a few.", flush=True)
    store = out / "captions-vllm"
    command = [sys.executable, "-m", "cfbus.tools.main", "run", str(pictures), "--out", str(store)]
    environment = {**os.environ, **engine_vllm.ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    code = subprocess.run([*command, "--config", str(file)], env=environment, check=False).returncode
    if code == 0:
        columns = ["item_key", "slot", "caption", "model"]
        rows = ds.dataset(store / "captions", format="parquet").to_table(columns=columns).to_pylist()
        rows.sort(key=lambda row: (row["item_key"], row["slot"]))
        print("\nWhat is on a picture stands in its name.")
        shown = [Caption(row["item_key"], row["slot"], row["caption"], row["model"]) for row in rows[: 2 * SHOWN]]
        show(screen(sys.stdout, wrap=True), shown, "Some of the pictures")
        print("\nWritten by the real vLLM with a model of 1.5 MB (tests/engines/tiny_vlm), sure of colours alone.")
        print("For a real one: README.md, On a GPU.")
    return code


if __name__ == "__main__":
    sys.exit(main())
