"""What `--show-report` prints is what a broker is really told: both ends as processes, over real TCP and CURVE."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from bus_harness import DEADLINE, Bench, quick_bench

from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.wire import decode, encode
from cfbus.config import Config
from cfbus.daemons.gpu_report import LABEL_CHARS, label, rules_of

Told = TypeVar("Told", bound=m.Message)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from quick_bench(monkeypatch)


def told(bench: Bench, kind: type[Told]) -> tuple[Told, bytes]:
    """The next message of this kind that comes, and from whom."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        bench.router.poll(100)
        for inbound in sockets.drain(bench.router, 100, bench.dropped):
            message, _ = decode(inbound.frames)
            if isinstance(message, kind):
                return message, inbound.routing_id
    raise AssertionError(f"no {kind.TAG} came")


def test_the_report_is_what_the_broker_is_told(bench: Bench, tmp_path: Path) -> None:
    pair = bench.enrol()
    keys.save(pair, tmp_path / "worker.key_secret", "worker")
    settings = {
        "worker.key_file": tmp_path / "worker.key_secret", "worker.server": bench.bus_endpoint,
        "worker.server_key": keys.public_line(bench.pair.public, "broker"), "worker.spool_dir": tmp_path / "spool",
        "captions.engine": "scripted", "dataset.source": "scripted", "dataset.items": 9, "worker.name": "lent",
    }  # fmt: skip
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "cfbus.daemons.gpu", "--gpu-id", "2,GPU-abcd1", *flags]
    shown = subprocess.run([*command, "--show-report"], capture_output=True, timeout=300, check=True).stdout
    report = json.loads(shown)
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        hello, peer = told(bench, m.Hello)
        welcome = m.Welcome(
            software="t", store_id=None, dataset="d", heartbeat_seconds=0.2, lease_seconds=10.0, window=1 << 20,
            generation=1, spec=None,
        )  # fmt: skip
        sockets.send(bench.router, peer, encode(welcome))
        beat, _ = told(bench, m.Heartbeat)
    finally:
        running.terminate()
        running.wait(60)
    assert (tmp_path / "spool" / "gpu-2+GPU-abcd1").is_dir()
    said = hello.model_dump(mode="json")
    assert report["HELLO"].pop("instance") != said.pop("instance")
    assert report["HELLO"] == said
    assert said["name"] == report["rows"]["worker"] == "lent-2+GPU-abcd1"
    assert report["rows"]["engine"] == "scripted"
    told_now = beat.model_dump(mode="json")
    loads = report["HEARTBEAT"].pop("load"), told_now.pop("load")
    assert loads[0].keys() == loads[1].keys()
    assert report["HEARTBEAT"] == told_now
    assert told_now["engine"]["kv_usage"] is told_now["host"] is None


@pytest.mark.parametrize(
    ("gpu_id", "short"),
    [("0", "0"), ("0,1", "0+1"), ("1,0", "1+0"), ("MIG-GPU-12ab/1/0", "MIG-GPU-12ab_1_0")],
)
def test_gpus_have_a_short_name(gpu_id: str, short: str) -> None:
    assert label(gpu_id) == short


def test_many_gpus_have_a_short_name_of_their_own_and_workers_of_a_host_differ() -> None:
    several = [",".join(f"GPU-1234567{at}-0000-0000-0000-{last:012}" for at in range(8)) for last in range(5)]
    found = {label(each) for each in several}
    assert len(found) == 5
    assert max(map(len, found)) <= LABEL_CHARS
    sections = [Config.model_validate({"worker": {"name": "x" * 64, "gpu_id": each}}).worker for each in several]
    names = {rules_of(section).name for section in sections}
    assert len(names) == 5
    assert max(map(len, names)) <= 64
