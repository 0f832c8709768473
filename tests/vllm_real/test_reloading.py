"""The real vLLM while things change: a new generation's prompts, and a new engine, with rows that say from where."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import engine_vllm
import pyarrow.dataset as ds
from coloured import BRIEF, DETAILED
from engine_rig import Outcomes
from vllm_album import Album, Open
from vllm_real.test_bus import folder_of

from cfbus.bus import messages as m
from cfbus.bus.columns import Table, build
from cfbus.bus.wire import decode_table, encode_table
from cfbus.core.effects import Effect, Send, UseSpec
from cfbus.core.worker import Worker, WorkerRules
from cfbus.spec import spec_of

PATIENCE = 240.0
COUNT = 600


def welcome(spec: m.Spec, generation: int) -> m.Welcome:
    return m.Welcome(
        software="t", store_id=None, dataset="d", heartbeat_seconds=2.0, lease_seconds=10.0, window=1 << 20,
        generation=generation, spec=spec, lost=(),
    )  # fmt: skip


def lease_of(count: int) -> tuple[m.Grant, bytes]:
    keys = [f"{number}.png" for number in range(count)]
    grant = m.Grant(
        lease="a" * 16, pass_number=1, shard=0, shard_name="s", start=0, end=count, done=(), slots=("one",),
        backup=False, ttl=10.0, window=1 << 20,
    )  # fmt: skip
    return grant, encode_table(build("listing", count, {"key": keys, "locator": [b""] * count}))


def test_a_new_generation_holds_from_the_next_item_and_rows_say_which(opened: Open) -> None:
    """Of one lease: what is in the engine is written by the old prompt, what comes after by the new one."""
    old, new = (
        engine_vllm.config(captions={"engine": "vllm", "slots": {"one": {"prompt": prompt, "sampling": sampling}}})
        for prompt, sampling in ((DETAILED, {}), (BRIEF, {"max_tokens": 2}))
    )
    album, outcomes = Album(10), Outcomes()
    engine = opened(old, album, outcomes)
    running = engine._host._running
    core = Worker(WorkerRules("b" * 16, "w", 4, result_seconds=0.0), engine.facts, 0.0)
    results: list[tuple[m.Ranges, Table]] = []

    def carry_out(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, UseSpec):
                engine.use(effect.spec)
            elif isinstance(effect, Send) and isinstance(effect.message, m.Result):
                results.append((effect.message.ranges, decode_table("captions", effect.payload)))

    specs = [spec_of(settings.captions, settings.vllm) for settings in (old, new)]
    carry_out(core.connected(0.0))
    carry_out(core.handle(welcome(specs[0], 1), b"", 0.0))
    carry_out(core.handle(*lease_of(10), 0.0))
    engine.submit(core.next_items(4))
    carry_out(core.handle(welcome(specs[1], 2), b"", 1.0))
    engine.submit(core.next_items(6))
    carry_out(core.outcomes(outcomes.wait_for(10, PATIENCE).values(), 2.0))
    assert engine._host._running is running, "the engine was touched"
    results.sort(key=lambda result: result[0])
    told = [(ranges, table.constants["generation"]) for ranges, table in results]
    assert told == [(((0, 4),), "1"), (((4, 10),), "2")]
    for at, (((start, _),), table) in enumerate(results):
        assert table.constants["spec"] == specs[at].hash
        assert table.constants["model"] == str(engine_vllm.MODEL)
        for index, text in enumerate(table.text("caption").texts(), start):
            assert (" on a " in text) == (at == 0)
            assert album.seen[index].colour in text


def until(what: str, look: Callable[[], object], running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, f"{what}: {log.read_text()}"
        assert running.poll() is None, f"the run ended before {what}: {log.read_text()}"
        time.sleep(0.05)


def worker_of(run: int) -> int:
    """The process of the worker of a run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == run and b"cfbus.daemons.gpu" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("there is no worker")


def test_a_changed_argument_builds_another_engine_and_a_bad_one_none(tmp_path: Path) -> None:
    """Wrong at once; then an argument with which no engine can be built, so that it goes on with one as before; then
    one with which another is built."""
    seen = folder_of(tmp_path / "in", COUNT)
    file = tmp_path / "my.yaml"
    vllm = {**engine_vllm.ARGUMENTS, "sampling": engine_vllm.GREEDY}
    captions = {"engine": "vllm", "slots": {"brief": BRIEF}}
    file.write_text(json.dumps({"vllm": vllm, "captions": captions, "worker": {"concurrency": 4}}))
    out, said = tmp_path / "out", tmp_path / "said"
    command = [sys.executable, "-m", "cfbus.tools.main", "run", str(tmp_path / "in"), "--out", str(out)]
    environment = {**os.environ, **engine_vllm.ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    log = out / "run" / "logs" / "gpu-0.log"

    def logged(event: str) -> bool:
        return log.exists() and f" {event}" in log.read_text()

    def change(key: str, value: int, event: str) -> None:
        text, changed = re.subn(rf"(?m)^  {key}: .*$", f"  {key}: {value}", own.read_text())
        assert changed == 1
        own.write_text(text)
        os.kill(worker_of(running.pid), signal.SIGHUP)
        until(event, lambda: logged(event), running, log)

    with said.open("wb") as stream:
        running = subprocess.Popen([*command, "--config", str(file)], stdout=stream, stderr=stream, env=environment)
    try:
        until("work", lambda: logged("spec.used"), running, said)
        own = out / "cfbus.yaml"
        change("max_num_seqs", 0, "worker.not_reloaded")
        change("max_num_seqs", 8, "worker.reloaded")
        change("kv_cache_memory_bytes", 1024, "worker.engine_not_replaced")
        (own_log,) = [line for line in log.read_text().splitlines() if "worker.engine_not_replaced" in line]
        assert "vLLM cannot load" in own_log
        change("kv_cache_memory_bytes", 64 << 20, "worker.reloaded")
        change("max_model_len", 256, "worker.engine_replaced")
        assert running.wait(PATIENCE) == 0, said.read_text() + log.read_text()
    finally:
        running.terminate()
        running.wait(60)
    assert log.read_text().count("vllm.loaded") == 3
    rows = ds.dataset(out / "captions").to_table(columns=["item_key", "caption"]).to_pylist()
    assert len({row["item_key"] for row in rows}) == len(rows) == COUNT
    right = sum(row["caption"].startswith(seen[row["item_key"]].colour) for row in rows)
    assert right >= 0.97 * COUNT
