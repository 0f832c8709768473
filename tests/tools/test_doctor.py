"""`cfbus doctor` as a command: one line for each thing, the exit code of the first that is bad, a twin for scripts."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from cfbus import config
from cfbus.bus import keys
from cfbus.tools import doctor
from cfbus.tools.doctor_seen import Seen, Verdict

NOBODY = "tcp://127.0.0.1:9"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(doctor.command, [str(argument) for argument in arguments])


def configured(folder: Path, **more: str) -> Path:
    pair = keys.generate()
    keys.save(pair, folder / "mine.key_secret", "mine")
    line = keys.public_line(keys.generate().public, "broker")
    path = folder / "gpu.yaml"
    said = {"key_file": str(folder / "mine.key_secret"), "server": NOBODY, "server_key": line, **more}
    path.write_text(json.dumps({"worker": said, "writer": said, "captions": {"engine": "palette"}}))
    return path


def test_each_thing_has_its_line_and_the_first_bad_one_its_exit_code(tmp_path: Path) -> None:
    said = run("--config", configured(tmp_path), "--no-rate")
    lines = [line.split()[:2] for line in said.output.splitlines() if not line.startswith(" ")]
    assert lines == [
        ["ok", "configuration"], ["ok", "key"], ["ok", "name"], ["BAD", "network"], ["ok", "spool"], ["ok", "engine"],
    ]  # fmt: skip
    assert said.exit_code == 69
    secret = keys.load(tmp_path / "mine.key_secret").secret.decode()
    assert secret not in said.output


def test_without_a_key_nobody_is_dialled_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    path = configured(tmp_path)
    (tmp_path / "mine.key_secret").chmod(0o604)
    said = run("--config", path, "--json", "--no-rate")
    found = {each["what"]: each for each in map(json.loads, said.output.splitlines())}
    assert found["key file"]["verdict"] == "bad"
    assert found["bus"]["verdict"] == "note"
    assert "network" not in found
    assert found["spool"]["verdict"] == "ok"
    assert said.exit_code == 78


def test_a_broken_server_key_is_told_before_anything_is_dialled(tmp_path: Path) -> None:
    said = run("--config", configured(tmp_path, server_key="cfbus-key1 nonsense"), "--no-rate")
    assert "worker.server_key: " in said.output
    assert "network" not in said.output
    assert said.exit_code == 2


def test_a_broken_configuration_is_all_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").write_text("wroker: {}")
    said = run("--config", tmp_path / "gpu.yaml")
    assert said.exit_code == 2
    assert "worker" in said.output


def test_the_rate_is_part_of_it_for_a_worker_alone(tmp_path: Path) -> None:
    path = configured(tmp_path)
    assert "images a second" in run("--config", path, "--set", "worker.decoders=1").output
    said = run("writer", "--config", path)
    assert "images a second" not in said.output
    assert "ok    store" in said.output


def test_an_engine_that_the_bus_does_not_caption_with(tmp_path: Path) -> None:
    loaded = config.load("gpu", configured(tmp_path), (), {})
    *_, last = doctor._of_work(loaded, "vllm")
    assert last.verdict is Verdict.NOTE
    assert "captions with the engine vllm" in last.sentence


def test_hostile_text_is_shown_harmlessly() -> None:
    text = doctor.as_text(Seen("broker", Verdict.BAD, "it begins with \x1b[2J", "\u202eevil"))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.splitlines()) == 2
