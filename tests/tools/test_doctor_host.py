"""What `cfbus doctor` says of a host: key files, clock, disks, GPUs and their driver, the model."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfbus import config
from cfbus.bus import keys
from cfbus.gpus import GpuError, Reading
from cfbus.tools import doctor_host
from cfbus.tools.doctor_seen import Seen, Verdict

MIB = 1 << 20


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "mine.key_secret"
    keys.save(keys.generate(), path, "mine")
    return path


def test_a_good_key_file(key: Path) -> None:
    pair, seen = doctor_host.of_key(key)
    assert pair is not None
    assert seen.verdict is Verdict.OK
    assert keys.fingerprint(pair.public) in seen.sentence
    assert pair.secret.decode() not in repr(seen)


def test_key_files_that_no_daemon_takes(key: Path, tmp_path: Path) -> None:
    key.chmod(0o644)
    pair, seen = doctor_host.of_key(key)
    assert (pair, seen.verdict, seen.exit_code) == (None, Verdict.BAD, 78)
    assert "chmod 600" in seen.hint
    pair, seen = doctor_host.of_key(tmp_path / "none.key_secret")
    assert (pair, seen.verdict) == (None, Verdict.BAD)
    assert seen.exit_code


def test_a_clock_before_its_own_key(key: Path) -> None:
    assert list(doctor_host.of_clock(key)) == []
    later = time.time() + 3 * 86_400
    os.utime(key, (later, later))
    (seen,) = doctor_host.of_clock(key)
    assert (seen.what, seen.verdict) == ("clock", Verdict.BAD)
    assert list(doctor_host.of_clock(key.with_name("none"))) == []


def test_disks(tmp_path: Path) -> None:
    assert doctor_host.of_disk("spool", tmp_path / "to" / "be" / "made", 1).verdict is Verdict.OK
    seen = doctor_host.of_disk("spool", tmp_path, 1 << 40)
    assert seen.verdict is Verdict.NOTE
    assert "1,099,511,627,776 MiB" in seen.sentence
    (tmp_path / "file").write_text("")
    assert doctor_host.of_disk("spool", tmp_path / "file" / "spool", 1).verdict is Verdict.BAD


class Driver:
    """A driver that says what it is told to, at each step."""

    def __init__(self, *readings: Reading, fails: str = "", hangs: threading.Event | None = None) -> None:
        self._readings = iter(readings)
        self._fails = fails
        self._hangs = hangs
        self.closed = threading.Event()

    def open(self) -> str:
        if self._hangs is not None:
            self._hangs.wait(60.0)
        if self._fails == "open":
            raise GpuError("Driver\x1b[2J Not Loaded")
        return "615.71"

    def read(self, gpu: str) -> Reading:
        if self._fails == gpu:
            raise GpuError(f"no GPU is called {gpu}")
        return next(self._readings)

    def close(self) -> None:
        self.closed.set()


IDLE = Reading("NVIDIA H100", 0, 500 * MIB, 81_559 * MIB)
BUSY = Reading("NVIDIA H100", 99, 70_000 * MIB, 81_559 * MIB)


def test_gpus_with_their_driver() -> None:
    driver = Driver(IDLE, BUSY, Reading("MIG"))
    seen = list(doctor_host.of_gpus(["0", "GPU-1", "MIG-2"], driver))
    assert [(each.what, each.verdict) for each in seen] == [
        ("driver", Verdict.OK), ("GPU", Verdict.OK), ("GPU", Verdict.NOTE), ("GPU", Verdict.OK),
    ]  # fmt: skip
    assert "615.71" in seen[0].sentence
    assert "0 is NVIDIA H100 with 81,559 MiB, 500 of them in use" in seen[1].sentence
    assert driver.closed.wait(60.0)


@pytest.mark.parametrize("fails", ["open", "7"])
def test_a_gpu_that_cannot_be_used(fails: str) -> None:
    (seen,) = doctor_host.of_gpus(["7"], Driver(IDLE, fails=fails))
    assert seen.verdict is Verdict.BAD
    assert "There is no GPU that can be used" in seen.sentence
    assert "\x1b" not in seen.sentence


def test_a_driver_that_hangs_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_host, "DRIVER_SECONDS", 0.1)
    go_on = threading.Event()
    driver = Driver(IDLE, hangs=go_on)
    (seen,) = doctor_host.of_gpus(["0"], driver)
    assert "does not answer" in seen.sentence
    go_on.set()
    assert driver.closed.wait(60.0)


def loaded(*overrides: str) -> config.Loaded:
    return config.load("gpu", Path(os.devnull), overrides, {})


def engine(settings: config.Loaded, environ: dict[str, str]) -> Iterator[Seen]:
    return doctor_host.of_engine(settings, Driver(IDLE), environ)


def test_an_engine_without_a_gpu_needs_nothing(tmp_path: Path) -> None:
    (seen,) = engine(loaded("captions.engine=palette"), {"HF_HOME": str(tmp_path)})
    assert "needs no GPU" in seen.sentence


def test_with_vllm_all_of_it_is_looked_at(tmp_path: Path) -> None:
    found = {each.what: each for each in engine(loaded("captions.engine=vllm"), {"HF_HOME": str(tmp_path)})}
    assert list(found) == ["engine", "driver", "GPU", "model"]
    assert found["model"].verdict is Verdict.NOTE


def test_where_the_model_is(tmp_path: Path) -> None:
    vllm = loaded("vllm.model=Org/Name-1").config.vllm
    away = doctor_host.of_model(vllm, {"HF_HOME": str(tmp_path)})
    assert away.verdict is Verdict.NOTE
    assert f"downloaded into {tmp_path}/hub" in away.sentence
    offline = doctor_host.of_model(vllm, {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert offline.verdict is Verdict.BAD
    kept = tmp_path / "hub" / "models--Org--Name-1" / "snapshots"
    kept.mkdir(parents=True)
    assert doctor_host.of_model(vllm, {"HF_HOME": str(tmp_path)}).verdict is Verdict.NOTE, "an empty one is none"
    (kept / "0123").mkdir()
    assert doctor_host.of_model(vllm, {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}).verdict is Verdict.OK
    folder = loaded(f"vllm.model={tmp_path}").config.vllm
    assert doctor_host.of_model(folder, {}).verdict is Verdict.OK
    nowhere = loaded(f"vllm.model={tmp_path}/none").config.vllm
    assert doctor_host.of_model(nowhere, {}).verdict is Verdict.BAD


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hubs_library_has_it(environ: dict[str, str], cache: str) -> None:
    assert doctor_host.cache_of(environ) == Path(cache)
