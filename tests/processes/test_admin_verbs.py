"""`cfbus-admin` as a person and a script use it, against a bus that runs; and `/metrics` of its daemons."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

from processes.support import Nursery, Terminals, free_port, until
from prometheus_client.parser import text_string_to_metric_families

ITEMS = 4000
"""At twenty a second more than all that is asked meanwhile takes."""
BUS = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "captions.engine=scripted",
    "captions.scripted.rate=20",
    "captions.scripted.failures=0.02",
    "broker.max_attempts=1",
    "worker.name=ann",
)


class Admin:
    """Asks one verb after the other."""

    def __init__(self, nursery: Nursery, bus: Terminals) -> None:
        self._nursery = nursery
        self._bus = bus

    def __call__(self, *words: str, ends: int = 0, key: str = "admin") -> str:
        pair = f"admin.key_file={self._bus.folder}/keys/{key}.key_secret"
        command = self._nursery.start("cfbus.tools.admin", "--config", self._bus.config, "--set", pair, *words)
        return command.ends(ends)

    def json(self, *words: str, ends: int = 0) -> Any:
        return json.loads(self(*words, "--json", ends=ends).splitlines()[0])


def figures(port: int) -> dict[str, float]:
    """What a daemon tells when its loop answers in time; for a moment it may not."""

    def look() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found = {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}
        return found if found["cfbus_loop_turns"] == 1 else {}

    return until("the loop turns", look)


def test_a_run_is_looked_at_steered_and_ended(nursery: Nursery, tmp_path: Path) -> None:
    port = free_port(1, 10)
    bus = Terminals(nursery, tmp_path / "bus", *BUS, f"metrics.port={port}")
    ask = Admin(nursery, bus)
    assert "No broker answered" in ask("health", ends=75)
    broker = bus.start("broker")
    broker.says("broker.serves")
    assert "writer-away" in ask("health", ends=75)
    writer, gpu = bus.start("writer"), bus.start("gpu-0")
    gpu.says("spec.used")
    with bus.watch() as watch:
        watch.until("something is done", lambda s: s.captions > 0 and s.dead_letters > 0)
        assert ask.json("health")["healthy"]
        (worker,) = ask.json("workers")
        assert worker["name"] == "ann-0"
        leases = ask.json("leases", "--worker", "ann-0")
        assert {lease["kind"] for lease in leases} <= {"primary", "backup", "preparing"}
        shard = leases[0]["job"].rpartition(":")[0]
        story = ask.json("story", shard)["rows"]
        assert {"leased", "stored"} <= {line["what"] for line in story}
        assert [line["at"] for line in story] == sorted(line["at"] for line in story)
        assert {line["name"] for line in story if line["worker"] == "ann-0"} == {"local"}
        assert ask("story", shard).startswith("since the broker started at 20")
        assert figures(port)["cfbus_workers"] == 1
        assert figures(port + 1)["cfbus_captions"] > 0
        assert figures(port + 10)["cfbus_captioned_total"] > 0

        assert "Did you mean 'health'" in ask("helth", ends=2)
        assert "There is no shard 'nowhere'" in ask("reset", "nowhere", ends=2)
        assert "Say what to reset" in ask("reset", ends=2)
        assert "refuses" in ask("status", key="gpu-0", ends=77)

        ask("pause")
        assert "paused" in ask("health")
        before = ask.json("leases")  # while nothing is granted they can only become fewer
        assert 1 <= ask.json("reset", shard, "--dry-run")["leases"] <= len(before)
        assert ask.json("reset", "--contributor", worker["contributor"])["leases"] >= 1
        until("the leases are gone", lambda: not ask.json("leases"))
        ask("resume")
        watch.until("it is leased again", lambda s: s.leased > 0)

        assert ask.json("drain", "ann-0")["draining"] == 1
        watch.until("nothing is leased", lambda s: s.leased == 0 and s.workers == 0)
        assert [each["state"] for each in ask.json("workers")] == ["draining"]
        assert "no-workers" in ask("health", ends=75)
        assert ask.json("undrain")["workers"] == "ann-0"
        watch.until("it takes work again", lambda s: s.leased > 0 and s.workers == 1)
        assert "No worker drains" in ask("undrain", ends=2)
        quick = bus.start("gpu-1", "--set", "captions.scripted.speed=100", "--set", "metrics.port=0")
        assert ask.json("shutdown", "--when-done")["ends"] == "when all is captioned and sealed"
        broker.ends(0)
    said = f"{broker.said}\n{writer.said}\n{gpu.said}"
    seen = set(re.findall(r"(?m)^\d{4}-\S+Z (?:info|warning|error) +(?:broker|writer|gpu) (\S+)", said))
    assert {"admin.call", "lease.granted", "item.failed", "segment.sealed"} <= seen
    assert seen <= set(re.findall(r"(?m)^\| `([^`]+)`", Path("docs/events.md").read_text()))
    log = [(line["verb"], line["outcome"].partition(":")[0]) for line in ask.json("--offline", "audit")]
    assert ("reset", "refused") in log
    assert ("reset", "done") in log
    assert ("pause", "done") in log
    for daemon in (quick, gpu, writer):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)
    letters = ask.json("--offline", "dead-letters")
    assert letters["dead_letters"] == len(letters["rows"]) > 0
    assert ask.json("--offline", "dead-letters", "--by", "reason")["rows"][0]["count"] == str(letters["dead_letters"])
    taken = ask.json("--offline", "requeue", "--where", "item_index = 0", "--set", "length=9")
    assert (taken["passes"], taken["captions"]) == (2, 1)
    assert ask.json("--offline", "close-pass", "2")["closed_passes"] == 2
    assert [row["state"] for row in ask.json("--offline", "passes")] == ["complete", "closed"]
    noted = [(line["verb"], line["who"].startswith("uid ")) for line in ask.json("--offline", "audit")]
    assert ("requeue", True) in noted
    assert ask.json("--offline", "scan") == {"whole": True, "findings": []}
    assert ask.json("--offline", "rebuild-ledger")["aside"]
    assert ask.json("--offline", "rebuild-ledger")["aside"] is None
    next((bus.store / "captions").glob("*.parquet")).unlink()
    assert "not there" in ask("--offline", "scan", ends=74)
