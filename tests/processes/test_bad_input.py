"""What people get wrong, with the real commands: a sentence that says what and where, a hint, the documented exit code.

Never a traceback, never exit code 1, and never a lost or doubled caption.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from processes.asking import MODULES, Asking, Told, needs, told_under
from processes.support import PATIENCE_SECONDS, Nursery, Terminals, free_port
from processes.tables import exact_pictures, failures, make_pictures, rows

from cfbus.bus import keys
from cfbus.tools import init


@pytest.fixture(scope="session")
def mortal() -> Sequence[str]:
    """A prefix under which permissions count, for root too."""
    if os.geteuid():
        return ()
    powers = "-dac_override,-dac_read_search"
    prefix = ("setpriv", "--bounding-set", powers, "--inh-caps", powers)
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        needs("root without setpriv may read everything")
    return prefix


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Ask a command: ``told(exit_code, "cfbus", "run", …)`` is what it says."""
    asking = Asking(tmp_path_factory.mktemp("asking"))
    yield asking.told
    asking.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    make_pictures(folder, 0, 12)
    return folder


@pytest.fixture(scope="module")
def captioned(pictures: Path, tmp_path_factory: pytest.TempPathFactory, told: Told) -> Path:
    """A finished store; not to be changed."""
    out = tmp_path_factory.mktemp("captioned") / "out"
    told(0, "cfbus", "run", pictures, "--out", out, "--slot", "short=One sentence.", "--workers", "1")
    return out


@pytest.fixture(scope="module")
def bus(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bus that was made and never started; not to be changed. Its broker's port is nobody's."""
    folder = tmp_path_factory.mktemp("bus") / "bus"
    servers = tuple(f"{who}.server=tcp://127.0.0.1:{free_port()}" for who in ("writer", "worker", "admin"))
    return init.initialise(folder, (str(pictures),), servers)


# The folder of pictures


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", ["no such folder", "Check the spelling"]),
        ("a.jpg", ["a file, not a folder", "Name the folder it is in"]),
        ("a.jpg/below", ["a.jpg"]),
        ("empty", ["the folder is empty"]),
        ("words", ["no picture found", ".txt", "known by their suffix"]),
        ("x" * 300, ["File name too long"]),
    ],
)
def test_a_folder_that_is_none(name: str, words: list[str], tmp_path: Path, told: Told) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("no picture")
    (tmp_path / "a.jpg").write_bytes(b"")
    said = told(2, "cfbus", "run", tmp_path / name, "--out", tmp_path / "out")
    assert all(word in said for word in [str(tmp_path), *words]), said
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_read(tmp_path: Path, mortal: Sequence[str]) -> None:
    secret = tmp_path / "secret"
    make_pictures(secret, 0, 1)
    secret.chmod(0)
    try:
        said = told_under(mortal, 2, "cfbus", "run", secret, "--out", tmp_path / "out")
    finally:
        secret.chmod(0o700)
    assert f"{secret}: the folder cannot be read: Permission denied" in said
    assert "Check who may read it" in said


def test_bad_pictures_become_dead_letters_and_their_neighbours_do_not(
    pictures: Path, tmp_path: Path, told: Told
) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(pictures, folder)
    whole = (pictures / "00001.jpg").read_bytes()
    bad = {"cut.jpg": whole[:-200], "nothing.jpg": b"", "words.png": b"no picture at all\n" * 40}
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / "jpeg_in_truth.png").write_bytes(whole)
    said = told(3, "cfbus", "run", folder, "--out", out, "--workers", "1")
    assert "3 images could not be captioned" in said
    assert "  nothing.jpg: The file has no bytes." in said
    assert "  cut.jpg: The file is cut off" in said
    assert f"{out}/failures/*.parquet" in said
    assert {row["item_key"]: row["fault"] for row in failures(out)} == dict.fromkeys(bad, "item")
    found = {row.key for row in rows(out)}
    assert found == {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg")} | {"jpeg_in_truth.png"}


def test_a_picture_that_vanishes_during_the_run(pictures: Path, nursery: Nursery, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    bus = Terminals(nursery, tmp_path / "bus", images=folder)
    broker, writer = bus.start("broker"), bus.start("writer")
    with bus.watch() as watch:
        watch.until("all is listed", lambda status: status.items == 12 and not status.listing)
        (folder / "00003.jpg").unlink()
        gpu = bus.start("gpu-0")
        status = watch.until("all is done and sealed", lambda status: status.finished and status.sealed)
    assert (status.captions, status.dead_letters) == (11, 1)
    for daemon in (gpu, writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)
    exact_pictures(bus.store, folder, ["caption"])
    [dead] = failures(bus.store)
    assert dead["item_key"] == "00003.jpg"
    assert "gone" in str(dead["detail"]), dead


# The output folder


def test_an_output_folder_that_may_not_be_written(pictures: Path, tmp_path: Path, mortal: Sequence[str]) -> None:
    (tmp_path / "frozen").mkdir(mode=0o555)
    said = told_under(mortal, 2, "cfbus", "run", pictures, "--out", tmp_path / "frozen" / "out")
    assert f"{tmp_path}/frozen/out cannot be used: Permission denied" in said
    assert "Choose a folder in which you may write" in said
    (tmp_path / "closed").mkdir(mode=0)
    said = told_under(mortal, 2, "cfbus", "run", pictures, "--out", tmp_path / "closed")
    assert "Permission denied" in said


@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_an_output_folder_that_can_be_none(name: str, pictures: Path, tmp_path: Path, told: Told) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    said = told(2, "cfbus", "run", pictures, "--out", tmp_path / name)
    assert f"{tmp_path / name} cannot be the folder for the output" in said
    assert len(said.splitlines()) == 2


def test_somebody_elses_folder_is_left_as_it_is(pictures: Path, tmp_path: Path, bus: Path, told: Told) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.doc").write_text("years of work")
    said = told(2, "cfbus", "run", pictures, "--out", theirs)
    assert "holds other things (thesis.doc) and is no store" in said
    assert "holds other things" in told(2, "cfbus-writer", "--config", bus, "--data-dir", theirs)
    assert [path.name for path in theirs.iterdir()] == ["thesis.doc"]


def test_a_store_of_another_dataset(captioned: Path, bus: Path, told: Told) -> None:
    said = told(2, "cfbus", "run", "--out", captioned, "--set", "dataset.name=other")
    assert "is the store of dataset 'pictures', not of 'other'" in said
    named = ("--set", "dataset.name=other", "--data-dir", captioned)
    assert "belongs to the dataset 'pictures'" in told(2, "cfbus-writer", "--config", bus, *named)


def test_a_store_of_a_newer_version(captioned: Path, pictures: Path, bus: Path, tmp_path: Path, told: Told) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(captioned, newer)
    identity = json.loads((newer / "store.json").read_text())
    (newer / "store.json").write_text(json.dumps(identity | {"format": 99}))
    for said in (
        told(2, "cfbus", "run", pictures, "--out", newer),
        told(2, "cfbus-writer", "--config", bus, "--data-dir", newer),
    ):
        assert "written by a newer cfbus (format 99" in said
        assert "pip install --upgrade cfbus" in said


def test_other_folders_than_before(captioned: Path, pictures: Path, tmp_path: Path, told: Told) -> None:
    make_pictures(tmp_path / "pictures", 0, 1)
    said = told(2, "cfbus", "run", tmp_path / "pictures", "--out", captioned)
    assert f"holds the captions of {pictures}" in said
    assert "or none: they are remembered" in said


def test_a_slot_of_the_store_without_a_prompt(captioned: Path, pictures: Path, tmp_path: Path, told: Told) -> None:
    (tmp_path / "other.yaml").write_text(f"dataset: {{paths: [{pictures}]}}\n")
    said = told(2, "cfbus", "run", "--out", captioned, "--config", tmp_path / "other.yaml")
    assert "begun with the slot 'short', for which there is no prompt now" in said
    assert '--slot short="…"' in said


# The command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["no verb 'rnu'", "Did you mean 'run'?"]),
        (["run", "PICTURES"], ["--out"]),
        (["run", "--out", "OUT"], ["Name at least one folder", "cfbus run PHOTOS --out captions"]),
        (["run", "PICTURES", "--out", "OUT", "--workers", "0"], ["--workers", "1<=x<=64"]),
        (["run", "PICTURES", "--out", "OUT", "--engine", "gpt"], ["'palette', 'scripted'"]),
        (["run", "PICTURES", "--out", "OUT", "--nonsense"], ["No such option"]),
        (["run", "PICTURES", "--out", "OUT", "--slot", "tags"], ["--slot tags is not NAME=TEXT", "For example"]),
        (["run", "PICTURES", "--out", "OUT", "--slot", "=tags"], ["is not NAME=TEXT"]),
        (["run", "PICTURES", "--out", "OUT", "--slot", "a=1", "--slot", "a=2"], ["'a' is given twice"]),
        (["run", "PICTURES", "--out", "OUT", "--slot", "Größe=1"], ["--slot Größe", "a small letter"]),
        (["run", "PICTURES", "--out", "OUT", "--prompt", "x" * 10_000], ["10,000 characters", "1 to 8192"]),
        (["run", "PICTURES", "--out", "OUT", *["--slot"] * 0, *(f"--slot=s{n}=x" for n in range(17))], ["17", "16"]),
        (["run", "PICTURES", "--out", "OUT", "--set", "nonsense"], ["write it as --set section.key=value"]),
        (["run", "PICTURES", "--out", "OUT", "--set", "brokr.port=1"], ["no such key", "broker"]),
        (["run", "PICTURES", "--out", "OUT", "--set", "captions.pixel_budget=many"], ['"many"', "whole number"]),
        (["run", "PICTURES", "--out", "OUT", "--config", "nowhere.yaml"], ["nowhere.yaml", "does not exist"]),
        (["init"], ["FOLDER"]),
        (["keygen", "OUT/key"], ["no folder", "mkdir -p"]),
    ],
)
def test_a_wrong_command_line(
    arguments: list[str], words: list[str], pictures: Path, tmp_path: Path, told: Told
) -> None:
    places = {"PICTURES": str(pictures), "OUT": str(tmp_path / "out"), "OUT/key": str(tmp_path / "out" / "key")}
    said = told(2, "cfbus", *(places.get(argument, argument) for argument in arguments))
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", MODULES)
def test_help_reads_well(command: str, told: Told) -> None:
    said = told(0, command, "--help")
    assert said.startswith("Usage: ")
    assert all(len(line) <= 80 for line in said.splitlines())
    assert told(2, command, "--nonsense").count("\n") <= 5


@pytest.mark.parametrize("command", ["cfbus-broker", "cfbus-writer", "cfbus-gpu", "cfbus-admin"])
def test_a_wrong_configuration(command: str, tmp_path: Path, told: Told) -> None:
    verb = ["status"] if command == "cfbus-admin" else []
    path = tmp_path / "bad.yaml"
    path.write_text("broker:\n  prot: 7710\n  chunk_size: many\nworker:\n  gpu_id: -1\n")
    said = told(2, command, "--config", path, *verb)
    assert f"{path}:2: broker.prot: no such key; did you mean broker.port?" in said
    assert f'{path}:3: broker.chunk_size: "many" is not a whole number' in said
    assert f'{path}:5: worker.gpu_id: "-1" is not a GPU or several' in said
    assert "cfbus init" in told(2, command, "--config", tmp_path / "nowhere.yaml", *verb)


def test_flags_of_daemons_are_told_by_their_names(tmp_path: Path, told: Told) -> None:
    (tmp_path / "file").write_text("")
    assert "--port: broker.port: 70000 is not" in told(2, "cfbus-broker", "--port", "70000")
    assert "--server: writer.server" in told(2, "cfbus-writer", "--server", "nowhere")
    assert "--gpu-id: worker.gpu_id" in told(2, "cfbus-gpu", "--gpu-id", "-1")
    said = told(2, "cfbus-gpu", "--model", "a/b", "--precision", "half")
    assert "--model: only the engine vllm reads vllm.model; captions.engine is palette" in said
    assert "--batch-size: worker.concurrency: 0" in told(2, "cfbus-gpu", "--batch-size", "0")
    said = told(2, "cfbus-gpu", "--spool-dir", tmp_path / "file" / "below")
    assert f"is not a place for a folder: {tmp_path}/file is a file" in said
    assert "No log level is called 'loud'" in told(2, "cfbus-broker", "--log-level", "loud")


# Ports, seconds of the same kind, keys


@pytest.mark.parametrize("flag", ["--port", "--stats-port"])
def test_a_port_in_use(flag: str, bus: Path, tmp_path: Path, told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        other = "--stats-port" if flag == "--port" else "--port"
        said = told(75, "cfbus-broker", "--config", bus, "--data-dir", tmp_path, flag, str(port), other, "0")
    assert f"Another program already listens on 127.0.0.1:{port}" in said
    assert "choose another port" in said


def replaced(path: Path, new: str) -> None:
    """The secret in a key file, by another."""
    path.write_text(re.sub(r'secret-key = ".*"', lambda _: f'secret-key = "{new}"', path.read_text()))


def test_key_files(bus: Path, tmp_path: Path, told: Told) -> None:
    path = tmp_path / "night.key_secret"
    for command, section, verb in (
        ("cfbus-broker", "broker", []),
        ("cfbus-writer", "writer", []),
        ("cfbus-gpu", "worker", []),
        ("cfbus-admin", "admin", ["status"]),
    ):
        begin = [command, "--config", bus, "--set", f"{section}.key_file={path}", *verb]
        said = told(2, *begin)
        assert f"There is no key file {path}" in said
        assert "cfbus init" in said
    keys.save(keys.generate(), path, "night")
    gpu = ("cfbus-gpu", "--config", bus, "--set", f"worker.key_file={path}")
    path.chmod(0o644)
    assert f"chmod 600 {path}" in told(78, *gpu)
    path.chmod(0o600)
    secret = keys.load(path).secret.decode()
    replaced(path, keys.generate().secret.decode())
    said = told(77, *gpu)
    assert "do not belong together" in said
    replaced(path, secret)
    assert secret not in said
    assert "holds only the public half" in told(77, *gpu[:-1], f"worker.key_file={path.with_suffix('.key')}")
    assert "worker.server_key is missing" in told(2, "cfbus-gpu", "--config", bus, "--set", "worker.server_key=")


def test_what_a_running_bus_refuses(pictures: Path, nursery: Nursery, tmp_path: Path, told: Told) -> None:
    bus = Terminals(nursery, tmp_path / "bus", images=pictures)
    broker, writer = bus.start("broker"), bus.start("writer")
    writer.says("bus.welcomed")
    base = ("--config", bus.config)

    said = told(75, "cfbus-broker", *base, "--port", "0", "--stats-port", "0")
    assert f"Another broker works with {tmp_path}/bus/broker" in said
    assert "Stop it first" in said
    said = told(75, "cfbus-writer", *base, "--wait", "0")
    assert f"is in use by process {writer.pid}" in said
    assert "two writers on one store would harm it" in said

    stranger = tmp_path / "stranger.key_secret"
    keys.save(keys.generate(), stranger, "stranger")
    for command, section, verb in (("cfbus-gpu", "worker", []), ("cfbus-admin", "admin", ["status"])):
        said = told(77, command, *base, "--set", f"{section}.key_file={stranger}", *verb)
        assert "does not know this key" in said
        assert "Ask the maintainer for an invite, or to add this key" in said
        wrong = tmp_path / "bus" / "keys" / "writer.key_secret"
        said = told(77, command, *base, "--set", f"{section}.key_file={wrong}", *verb)
        assert "This key is a writer's" in said

    said = told(2, "cfbus-gpu", *base, "--set", "captions.engine=scripted")
    assert "wants captions by 'palette'" in said
    assert "captions.engine=palette" in said
    for daemon in (writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_the_key_of_another_broker(pictures: Path, nursery: Nursery, tmp_path: Path, told: Told) -> None:
    """A wrong server key is only noise to the broker, so it is we who must find out, in a bearable time."""
    bus = Terminals(nursery, tmp_path / "bus", images=pictures)
    broker = bus.start("broker")
    broker.says("broker.serves")
    line = keys.public_line(keys.generate().public, "other")
    gpu = nursery.start("cfbus.daemons.gpu", "--config", bus.config, "--set", f"worker.server_key={line}")
    said = told(77, "cfbus-admin", "--config", bus.config, "--set", f"admin.server_key={line}", "status")
    assert "is not the broker whose key is expected" in said
    assert "is not the broker whose key is expected" in gpu.ends(77, 60.0)
    assert "Compare server and server_key in the configuration" in gpu.said
    broker.signal(signal.SIGTERM)
    broker.ends(0)


def test_output_that_has_no_room_or_no_reader(captioned: Path) -> None:
    again = [sys.executable, "-m", MODULES["cfbus"], "run", "--out", str(captioned)]
    with open("/dev/full", "wb") as full:
        assert subprocess.run(again, stdout=full, timeout=PATIENCE_SECONDS, check=False).returncode == 0
        public = [sys.executable, "-m", MODULES["cfbus"], "--help"]
        done = subprocess.run(public, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 75
    assert b"Traceback" not in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(again, stdout=write, stderr=subprocess.PIPE, timeout=PATIENCE_SECONDS, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (130, b"")
