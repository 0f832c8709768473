"""Captions of the real vLLM over the real bus: one command, from pictures to parquet."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import engine_vllm
import pyarrow.dataset as ds
import pytest
from coloured import BRIEF, DETAILED, Coloured, draw

COUNT = 80


def folder_of(folder: Path, count: int) -> dict[str, Coloured]:
    """Pictures in sub-folders, so that their order is none of drawing."""
    dice = random.Random(11)
    seen = {}
    for number in range(count):
        image, what = draw(dice)
        name = f"{dice.choice('xyz')}/{dice.randrange(10**6):06d}-{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
        seen[name] = what
    return seen


def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cfbus.tools.main", "run", *map(str, arguments)]
    environment = os.environ | engine_vllm.ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | environ
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """JSON is YAML."""
    stages = {"see": {}, "sum": {"requires": ["see"], "image": False, "sampling": {"max_tokens": 8}}}
    slots = {
        "detailed": {"prompt": DETAILED, "stage": "see"},
        "brief": {"prompt": BRIEF, "stage": "see"},
        "summary": {"prompt": "{brief}", "stage": "sum"},
    }
    vllm = {**engine_vllm.ARGUMENTS, "sampling": engine_vllm.GREEDY}
    path = tmp_path / "my.yaml"
    path.write_text(json.dumps({"vllm": vllm, "captions": {"engine": "vllm", "stages": stages, "slots": slots}}))
    return path


def test_one_command_captions_a_folder_with_the_right_words(tmp_path: Path, file: Path) -> None:
    seen = folder_of(tmp_path / "in", COUNT)
    done = run(tmp_path / "in", "--out", tmp_path / "out", "--config", file)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = ds.dataset(tmp_path / "out" / "captions").to_table().to_pylist()
    assert len(rows) == 3 * COUNT
    right = asked = 0
    for row in rows:
        what = seen[row["item_key"]]
        if row["slot"] == "detailed":
            asked += 2
            right += f" {what.colour} " in row["caption"]
            right += f" on a {what.ground} " in row["caption"]
        elif row["slot"] == "brief":
            asked += 1
            right += row["caption"].startswith(what.colour)
        assert row["stage"] == ("sum" if row["slot"] == "summary" else "see")
        assert row["model"] == str(engine_vllm.MODEL)
        assert row["engine"].startswith("vllm 0.")
        assert row["finish_reason"] in ("stop", "length")
        assert row["output_tokens"] > 0
        assert row["mean_logprob"] <= 0
        assert row["prompt_tokens"] > 0
    assert asked == 3 * COUNT
    assert right >= 0.97 * asked, f"{right} of {asked} colours"
    again = run(tmp_path / "in", "--out", tmp_path / "out")
    assert again.returncode == 0, again.stdout + again.stderr


def test_captions_over_the_bus_are_those_of_vllm_by_itself(tmp_path: Path) -> None:
    """Text, tokens and end of each, against one `LLM.generate` on the same files, by a program without cfbus."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder_of(folder, 40)
    file = tmp_path / "my.yaml"
    vllm = {**engine_vllm.ARGUMENTS, "sampling": engine_vllm.GREEDY}
    slots = {"detailed": DETAILED, "brief": BRIEF}
    file.write_text(json.dumps({"vllm": vllm, "captions": {"engine": "vllm", "slots": slots}}))
    done = run(folder, "--out", out, "--config", file)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, str(Path(__file__).parent / "direct.py"), str(folder), *slots.values()]
    environment = os.environ | engine_vllm.ENVIRONMENT
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=True).stdout
    direct = {(name, prompt): rest for name, prompt, *rest in json.loads(said.splitlines()[-1])}
    columns = ["item_key", "slot", "caption", "prompt_tokens", "output_tokens", "finish_reason"]
    rows = ds.dataset(out / "captions").to_table(columns=columns).to_pylist()
    found = {(row["item_key"], slots[row["slot"]]): [row[name] for name in columns[2:]] for row in rows}
    assert len(rows) == len(direct) == 80
    assert found == direct


def test_what_vllm_does_not_know_is_said_at_once(tmp_path: Path, file: Path) -> None:
    folder_of(tmp_path / "in", 1)
    done = run(tmp_path / "in", "--out", tmp_path / "out", "--config", file, "--set", "vllm.max_model_length=4")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "has no argument max_model_length; did you mean max_model_len" in done.stdout + done.stderr
