"""The broker's file changes while it serves: what is shown and answered, and that a hundred changes lose nothing."""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
from processes.support import Nursery, Terminals, until
from processes.tables import exact_scripted

import cfbus
from cfbus import config
from cfbus.errors import UsageError
from cfbus.tools.asking import OverBus, Told

ITEMS = 6000
RELOADS = 100
BUS = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "captions.engine=scripted",
    "captions.scripted.rate=300",
    "captions.slots={short: Say it briefly.}",
    "broker.chunk_size=50",
    "worker.name=ann",
)


def admin_of(bus: Terminals) -> OverBus:
    return OverBus(config.load("admin", bus.config, (), os.environ).config)


def edit(bus: Terminals, key: str, value: object) -> None:
    text = bus.config.read_text()
    changed, count = re.subn(rf"(?m)^( +){key}: .*$", rf"\g<1>{key}: {value}", text)
    assert count == 1, f"{key} stands {count} times in {text}"
    bus.config.write_text(changed)


def classes(told: Told) -> dict[str, str]:
    return {row[0]: row[1] for row in told.rows}


def answered(asker: OverBus, generation: str) -> dict[str, str]:
    """What workers say to it, once all have."""

    def look() -> dict[str, str] | None:
        told = asker.ask("answers", {})
        said = {row[0]: row[2] for row in told.rows}
        return said if dict(told.facts)["generation"] == generation and "asked" not in said.values() else None

    return until("the workers answer", look)


def test_a_change_is_shown_taken_and_answered(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *BUS)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    gpu.says("spec.used")
    with closing(admin_of(bus)) as asker:
        assert asker.ask("config-diff", {}).rows == ()
        edit(bus, "chunk_size", 20)
        edit(bus, "short", "Say it in a word.")
        kinds = {"broker.chunk_size": "live", "captions.slots.short.prompt": "live"}
        assert classes(asker.ask("config-diff", {})) == kinds
        assert answered(asker, "1") == {"ann-0": "applied"}, "to compare is not to change"
        told = asker.ask("reload", {})
        assert classes(told) == kinds
        assert dict(told.facts)["generation"] == "2"
        assert answered(asker, "2") == {"ann-0": "applied"}
        assert ("broker.chunk_size", "20") in asker.ask("config-show", {}).rows
        good = bus.config.read_text()
        bus.config.write_text(good.replace("chunk_size: 20", "chunk_size: 3\n  chunk_sice: 4"))
        line = good[: good.index("chunk_size: 20")].count("\n") + 2
        with pytest.raises(UsageError, match=rf"cfbus\.yaml:{line}: .*did you mean.*Nothing has changed"):
            asker.ask("reload", {})
        bus.config.write_text(re.sub(r"(?m)^(  port: ).*$", r"\g<1>1234", good, count=1))
        with pytest.raises(UsageError, match=r"cfbus\.yaml:\d+: \S+ cannot change while the broker runs: .*restart"):
            asker.ask("reload", {})
        bus.config.write_text(good)
        assert asker.ask("reload", {}).rows == (), "what was refused has left something behind"
        assert answered(asker, "2") == {"ann-0": "applied"}
        log = [(row[3], row[5].partition(":")[0]) for row in asker.ask("audit", {}).rows if row[3] == "reload"]
        assert log == [("reload", "done"), ("reload", "refused"), ("reload", "refused"), ("reload", "done")]
    said = nursery.start("cfbus.tools.admin", "--config", bus.config, "reload").ends(0)
    assert "Nothing differs." in said
    assert re.search(r"(?m)^worker +ann-0$", said)
    assert re.search(r"(?m)^answer +applied$", said)
    bus.config.write_text(bus.config.read_text().replace("    #leases: 8192\n", "    leases: 1\n"))
    edit(bus, "chunk_size", 30)
    broker.signal(signal.SIGHUP)
    broker.says('broker.reloaded changed=["broker.chunk_size", "broker.limits.leases"]')
    gpu.says("generation=3")
    for daemon in (gpu, writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_a_hundred_reloads_under_load_lose_nothing(nursery: Nursery, tmp_path: Path) -> None:
    """Good and bad ones, asked for and by signal, one of which opens a pass."""
    bus = Terminals(nursery, tmp_path / "bus", *BUS)
    broker, writer = bus.start("broker"), bus.start("writer")
    gpus = [bus.start(f"gpu-{number}") for number in range(2)]
    for gpu in gpus:
        gpu.says("spec.used")
    refused = 0
    with closing(admin_of(bus)) as asker, bus.watch() as watch:
        watch.until("it is at work", lambda s: s.captions > 0)
        for number in range(RELOADS):
            good = bus.config.read_text()
            if number % 5 == 3:
                bus.config.write_text(f"{good}\nbroker: [this, is, wrong\n")
                refused += 1
                with pytest.raises(UsageError, match="Nothing has changed"):
                    asker.ask("reload", {})
                bus.config.write_text(good)
                continue
            if number == RELOADS // 2:
                bus.config.write_text(good.replace("    short:", "    long: Say all of it.\n    short:"))
            edit(bus, "short", f"Say it briefly, for the {number}th time.")
            edit(bus, "chunk_size", 20 + number)
            if number % 7 == 0:
                broker.signal(signal.SIGHUP)
            asker.ask("reload", {})
        generation = dict(asker.ask("answers", {}).facts)["generation"]
        assert int(generation) == 1 + RELOADS - refused
        assert set(answered(asker, generation).values()) == {"applied"}
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed and s.passes == 2, 120)
    assert status.captions == 2 * ITEMS
    assert status.dead_letters == 0
    for daemon in (*gpus, writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)
    exact_scripted(bus.store, ITEMS, ["short", "long"])
    specs = defaultdict(set)
    for row in cfbus.open(bus.store).arrow().select(["generation", "spec"]).to_pylist():
        specs[row["generation"]].add(row["spec"])
    assert len(specs) > 10, "it was done before anything changed"
    assert all(len(each) == 1 for each in specs.values()), "a generation had two specs"
