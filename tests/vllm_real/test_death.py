"""`AsyncLLM` as on a GPU host, in processes of its own, and its engine killed in the middle of a run: by a picture, and
from outside."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import engine_vllm
import pyarrow.dataset as ds
from coloured import BRIEF, DETAILED, draw
from PIL import Image
from vllm_real.deadly import COLOUR
from vllm_real.plugins import installed

COUNT = 400
DEADLY = 9
IN_FLIGHT = 2  # each death on the way to the guilty one takes as long as loading
CORE = "VLLM::EngineCore"


def until(there: Callable[[], object], seconds: float, running: subprocess.Popen[str]) -> None:
    """Wait for a condition, as long as the run goes on."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        assert running.poll() is None, "the run ended first"
        time.sleep(0.05)


def engine_cores(of: int) -> list[int]:
    """Process ids of engines among the descendants of a process."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (entry / "stat").read_text()
            parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
            names[int(entry.name)] = (entry / "cmdline").read_text()
    found, front = [], {of}
    while front:
        front = {child for child, parent in parents.items() if parent in front}
        found += [child for child in front if CORE in names.get(child, "")]  # one that has just ended has none
    return found


def found_and_built_anew(log: str) -> bool:
    """Whether the guilty one was found, and another engine is there after that."""
    return " vllm.loaded " in log.partition("found=true")[2]


def test_a_killed_engine_costs_no_caption_but_that_of_the_picture_that_kills_it(tmp_path: Path) -> None:
    dice, colours = Random(3), {}
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(COUNT):
        image, seen = draw(dice)
        (Image.new("RGB", image.size, COLOUR) if number == DEADLY else image).save(folder / f"{number:03d}.png")
        colours[f"{number:03d}.png"] = seen
    vllm = {**engine_vllm.ARGUMENTS, "sampling": engine_vllm.GREEDY}
    captions = {"engine": "vllm", "slots": {"detailed": DETAILED, "brief": BRIEF}}
    settings = {"vllm": vllm, "captions": captions, "worker": {"concurrency": IN_FLIGHT}, "broker": {"max_attempts": 1}}
    (tmp_path / "my.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "cfbus.tools.main", "run", str(folder), "--out", str(out)]
    environment = {**os.environ, **engine_vllm.ENVIRONMENT, "PYTHONPATH": str(installed(tmp_path / "plugin", "deadly"))}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    log = out / "run" / "logs" / "gpu-0.log"
    with (tmp_path / "said").open("w") as said:
        running = subprocess.Popen(
            [*command, "--config", str(tmp_path / "my.yaml")], stdout=said, stderr=said, env=environment, text=True
        )
    try:
        until(lambda: engine_cores(running.pid), 900, running)
        until(lambda: log.exists() and found_and_built_anew(log.read_text()), 900, running)
        (core,) = engine_cores(running.pid)
        os.kill(core, signal.SIGKILL)
        assert running.wait(900) == 3, (tmp_path / "said").read_text() + log.read_text()
    finally:
        running.terminate()
        running.wait(60)
    said_of_it = log.read_text()
    deaths = said_of_it.count(" vllm.died ")
    assert 3 <= deaths <= 1 + 2 * math.log2(IN_FLIGHT) + 2
    assert said_of_it.count(" vllm.loaded ") == deaths + 1
    (failure,) = ds.dataset(out / "failures").to_table().to_pylist()
    assert (failure["item_key"], failure["reason"], failure["fault"]) == (f"{DEADLY:03d}.png", "engine-died", "item")
    rows = ds.dataset(out / "captions").to_table(columns=["item_key", "slot", "caption", "engine"]).to_pylist()
    assert len({(row["item_key"], row["slot"]) for row in rows}) == len(rows) == 2 * (COUNT - 1)
    assert f"{DEADLY:03d}.png" not in {row["item_key"] for row in rows}
    right = sum(row["caption"].startswith(colours[row["item_key"]].colour) for row in rows if row["slot"] == "brief")
    assert right >= 0.97 * COUNT
    assert not engine_cores(os.getpid()), "an engine outlived its run"
