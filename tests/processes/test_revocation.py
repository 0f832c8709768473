"""A key that is closed while its worker is at work: it is cut, told why, and what it held is free at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from processes.support import MARK, PATIENCE_SECONDS, Command, Nursery, Terminals, Watch, until
from processes.tables import exact_scripted

from cfbus.bus import keys
from cfbus.bus.auth import KeyState
from cfbus.bus.messages import Role
from cfbus.store.registry import Registry

ITEMS = 900
SLOW = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "captions.engine=scripted",
    "captions.scripted.rate=40",
)


def decide(bus: Terminals, broker: Command | subprocess.Popen[bytes], state: KeyState, *names: str) -> None:
    """What a maintainer does: the state of these keys in the registry, then the signal."""
    with Registry.open(bus.folder / "broker" / "registry.sqlite", create=False) as registry:
        for name in names:
            public = keys.load_public(bus.folder / "keys" / f"{name}.key")
            registry.set_state(public, state, who="test", now=time.time())
    os.kill(broker.pid, signal.SIGHUP)


def another_worker(bus: Terminals, broker: Command) -> Path:
    """The file of a second worker's key, which the broker knows."""
    pair = keys.generate()
    file = bus.folder / "keys" / "other.key_secret"
    keys.save(pair, file, "other")
    with Registry.open(bus.folder / "broker" / "registry.sqlite", create=False) as registry:
        owner = registry.add_contributor("somebody else", trust=1, who="test", now=time.time())
        registry.add_key(pair.public, Role.WORKER, owner.contributor_id, "other", who="test", now=time.time())
    broker.signal(signal.SIGHUP)
    return file


def said_at(broker: Command, event: str) -> datetime:
    """By its own clock, for we may look late."""
    broker.says(f" {event} ")
    found = re.search(rf"(?m)^(\S+)Z \w+ +broker {re.escape(event)} ", broker.said)
    assert found is not None
    return datetime.fromisoformat(found[1])


def is_silent(watch: Watch) -> bool:
    """No status came for longer than the broker ever pauses."""
    try:
        watch.until("a status", lambda _: True, 2.5)
    except AssertionError:
        return True
    return False


def test_a_revoked_worker_ends_and_others_do_its_work(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SLOW)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    with bus.watch() as watch:
        watch.until("the worker is at work", lambda s: s.leased > 0 and s.done > 0)
        decide(bus, broker, KeyState.REVOKED, "gpu-0")
        status = watch.until("its leases are free", lambda s: not s.leased and not s.workers)
        # At once: not when the lease ends by its time (120 s) or the peer by its silence (17.5 s).
        assert "lease.expired" not in broker.said
        assert (said_at(broker, "peer.left") - said_at(broker, "keys.closed")).total_seconds() < 10
        assert 0 < status.done < ITEMS
        said = gpu.ends(77)
        assert "it said: this key was revoked." in said
        assert keys.fingerprint(keys.load_public(bus.folder / "keys" / "gpu-0.key")) in said
        broker.says("keys.closed")
        # Starting it again changes nothing, and it is told so.
        again = bus.start("gpu-0").ends(77)
        assert "knows this key and does not admit it any more: it was revoked or has expired." in again
        file = another_worker(bus, broker)
        flags = ["--gpu-id", "1", "--set", f"worker.key_file={file}", "--set", "captions.scripted.speed=50"]
        other = nursery.start("cfbus.daemons.gpu", "--config", bus.config, *flags)
        watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
    exact_scripted(bus.store, ITEMS, ["caption"])
    for daemon in (other, writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_suspended_keys_are_out_until_they_are_active_again(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SLOW)
    broker, writer, gpu = (bus.start(role) for role in ("broker", "writer", "gpu-0"))
    with bus.watch() as watch:
        watch.until("the worker is at work", lambda s: s.leased > 0 and s.done > 0)
        decide(bus, broker, KeyState.SUSPENDED, "gpu-0", "admin")
        gpu.says("the key awaits approval or is suspended")
        broker.says("peer.left")
        # Whoever watches with the admin key is out too, and hears nothing from now on.
        until("who watches hears nothing", lambda: is_silent(watch))
        decide(bus, broker, KeyState.ACTIVE, "gpu-0", "admin")
        watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
    exact_scripted(bus.store, ITEMS, ["caption"])
    for daemon in (gpu, writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)


def test_a_broker_ends_with_its_terminal(nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", *SLOW)
    master, slave = os.openpty()
    # Who leads a session and has no terminal is controlled by the first that it opens.
    code = (
        "import os, sys; os.open(sys.argv.pop(1), os.O_RDWR); from cfbus.daemons.broker import main; sys.exit(main())"
    )
    log = tmp_path / "broker.log"
    with log.open("wb") as said:
        broker = subprocess.Popen(
            [sys.executable, "-c", code, os.ttyname(slave), "--config", bus.config],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, MARK: nursery.mark},
            start_new_session=True,
        )
    os.close(slave)
    try:
        until("the broker serves", lambda: "broker.serves" in log.read_text())
        decide(bus, broker, KeyState.SUSPENDED, "gpu-0")
        until("it has read the registry", lambda: "keys.closed" in log.read_text())
        assert broker.poll() is None
    finally:
        os.close(master)
    assert broker.wait(PATIENCE_SECONDS) == 0
    assert "broker.stops" in log.read_text()
