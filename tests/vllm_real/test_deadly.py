"""A picture that kills the real engine: it is found in a few deaths, and all others are captioned."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import engine_vllm
import pyarrow.dataset as ds
import pytest
from coloured import BRIEF, SIZE, draw, png
from engine_rig import Outcomes, blame
from PIL import Image
from vllm_album import Album, Open
from vllm_real.deadly import COLOUR, installed, watched

from cfbus.config import Config
from cfbus.engines.vllm_host import Host

IN_FLIGHT = 2  # each death costs as long as loading
PICTURES = 12
DEADLY = Image.new("RGB", (SIZE, SIZE), COLOUR)


def settings() -> Config:
    return engine_vllm.config(captions={"engine": "vllm", "slots": {"brief": BRIEF}})


@pytest.fixture
def mortal(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The engine in this process: what would end its process fails its step, which is the end of it too."""
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Model

    def die() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Model, "embed_multimodal", watched(Model.embed_multimodal, die))
    before = host.deaths
    yield host
    assert host.deaths > before, "nothing died: the test shows nothing"


def right(album: Album, outcomes: Outcomes, indices: set[int]) -> bool:
    texts = {outcome.index: outcome.captions[0].text for outcome in outcomes.all if not outcome.failure}
    return all(texts[index].startswith(album.seen[index].colour) for index in indices)


def test_the_one_that_kills_is_found_in_halves_and_the_others_get_their_captions(mortal: Host, opened: Open) -> None:
    album, outcomes, before = Album(8, bytes_of={5: png(DEADLY)}), Outcomes(), mortal.deaths
    engine = opened(settings(), album, outcomes)
    engine.submit(album.items(("brief",)))
    found = outcomes.wait_for(8, 400)
    assert blame(found[5]) == ("engine-died", "item")
    assert right(album, outcomes, set(range(8)) - {5})
    assert mortal.deaths - before <= 2 * math.log2(8) + 2


def test_suspects_that_are_dropped_neither_come_back_nor_hold_up_the_others(mortal: Host, opened: Open) -> None:
    """The guilty one, and an innocent one, after the first death."""
    album, outcomes, before = Album(6, bytes_of={1: png(DEADLY)}), Outcomes(), mortal.deaths
    engine = opened(settings(), album, outcomes)
    items = album.items(("brief",))
    engine.submit(items)
    until = time.monotonic() + 60
    while mortal.deaths == before:
        assert time.monotonic() < until
        threading.Event().wait(0.001)
    engine.abandon(items[0].lease, frozenset({1, 4}))
    outcomes.wait_for(4, 400)
    assert right(album, outcomes, {0, 2, 3, 5})
    engine.submit([items[4]])  # leased again
    outcomes.wait_for(5, 60)
    assert right(album, outcomes, {0, 2, 3, 4, 5})
    assert mortal.deaths - before <= 3


def test_over_the_bus_it_alone_is_a_dead_letter(tmp_path: Path) -> None:
    """`AsyncLLM`, whose engine's process is killed by the picture, as a GPU host would have it."""
    dice, colours = Random(6), {}
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(PICTURES):
        image, seen = draw(dice)
        (DEADLY if number == 5 else image).save(folder / f"{number:02d}.png")
        colours[f"{number:02d}.png"] = seen.colour
    file = tmp_path / "my.yaml"
    vllm = {**engine_vllm.ARGUMENTS, "sampling": engine_vllm.GREEDY}
    captions = {"engine": "vllm", "slots": {"brief": BRIEF}}
    limits = {"worker": {"concurrency": IN_FLIGHT}, "broker": {"max_attempts": 1}}
    file.write_text(json.dumps({"vllm": vllm, "captions": captions, **limits}))
    environment = {**os.environ, **engine_vllm.ENVIRONMENT, "PYTHONPATH": str(installed(tmp_path / "plugin"))}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    command = [sys.executable, "-m", "cfbus.tools.main", "run", str(folder), "--out", str(out), "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    log = (out / "run" / "logs" / "gpu-0.log").read_text()
    assert done.returncode == 3, done.stdout + done.stderr + log
    (failure,) = ds.dataset(out / "failures").to_table().to_pylist()
    assert (failure["item_key"], failure["reason"], failure["fault"]) == ("05.png", "engine-died", "item")
    rows = ds.dataset(out / "captions").to_table(columns=["item_key", "caption"]).to_pylist()
    assert sorted(row["item_key"] for row in rows) == sorted(colours.keys() - {"05.png"})
    assert all(row["caption"].startswith(colours[row["item_key"]]) for row in rows)
    assert 2 <= log.count(" vllm.died ") <= 2 * math.log2(IN_FLIGHT) + 2
