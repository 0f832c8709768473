"""Captions of the real vLLM over the real bus: one command, from pictures to parquet."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import engine_vllm
import pyarrow.dataset as ds
import pytest
from coloured import BRIEF, DETAILED, Coloured, draw
from vllm_real import noting
from vllm_real.plugins import installed

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
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment, check=False)


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
    """Token for token, for all images and both slots, against one `LLM.generate` by a program without cfbus.

    Token ids do not travel over the bus, so the real worker process notes them (`noting`) where it makes a caption of
    them, with the item and the slot it is for. Shown is, for each image and slot: the worker's vLLM was asked with the
    same tokens and wrote the same; the row in the store has the text, number of tokens (of prompt, of text), reason
    of its end and mean log-probability of these; and this text is what the tokenizer makes of the ids.
    """
    folder, out, tokens = tmp_path / "in", tmp_path / "out", tmp_path / "tokens"
    folder_of(folder, 40)
    file = tmp_path / "my.yaml"
    vllm = {**engine_vllm.ARGUMENTS, "sampling": engine_vllm.GREEDY}
    slots = {"detailed": DETAILED, "brief": BRIEF}
    file.write_text(json.dumps({"vllm": vllm, "captions": {"engine": "vllm", "slots": slots}}))
    plugins = {"PYTHONPATH": str(installed(tmp_path / "plugins", "noting")), noting.FILE: str(tokens)}
    done = run(folder, "--out", out, "--config", file, **plugins)
    assert done.returncode == 0, done.stdout + done.stderr
    noted = [json.loads(line) for line in tokens.read_text().splitlines()]
    direct = {(each.pop("item"), each.pop("prompt")): each for each in said_directly(folder, list(slots.values()))}
    rows = ds.dataset(out / "captions").to_table().to_pylist()
    assert len(rows) == len(noted) == len(direct) == 80
    assert len({tuple(each["ids"]) for each in direct.values()}) > 20, "all alike: the comparison would show little"

    ids = {(item, slots[slot]): (prompt, written) for item, slot, prompt, written in noted}
    assert ids == {key: (each["prompt_ids"], each["ids"]) for key, each in direct.items()}
    for row in rows:
        same = direct.pop((row["item_key"], slots[row["slot"]]))
        assert row["caption"] == same["text"] == same["decoded"]
        assert (row["prompt_tokens"], row["output_tokens"]) == (len(same["prompt_ids"]), len(same["ids"]))
        assert row["finish_reason"] == same["finish_reason"]
        # Which requests shared a step is otherwise, and floating point with it.
        assert row["mean_logprob"] == pytest.approx(same["mean_logprob"], abs=1e-4)
    assert not direct


def said_directly(folder: Path, prompts: list[str]) -> list[dict[str, Any]]:
    command = [sys.executable, str(Path(__file__).parent / "direct.py"), str(folder), *prompts]
    environment = os.environ | engine_vllm.ENVIRONMENT
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_vllm_does_not_know_is_said_at_once(tmp_path: Path, file: Path) -> None:
    folder_of(tmp_path / "in", 1)
    done = run(tmp_path / "in", "--out", tmp_path / "out", "--config", file, "--set", "vllm.max_model_length=4")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "has no argument max_model_length; did you mean max_model_len" in done.stdout + done.stderr
