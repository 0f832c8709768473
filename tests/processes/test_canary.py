"""Secrets in key files, environment and configuration: whatever is asked, logged, crashed or written, none is seen."""

from __future__ import annotations

import base64
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq.utils.z85
from processes.support import PATIENCE_SECONDS, Nursery, Terminals
from processes.tables import make_pictures
from processes.test_remote_tars import shard
from sources.remote_rig import Ranged
from sources.web_rig import serving, status

ENVIRONMENT = {
    "HF_TOKEN": "hf_canaryCanaryCanaryCanaryCanaryCanary",
    "AWS_ACCESS_KEY_ID": "AKIACANARYCANARYCANA",
    "AWS_SECRET_ACCESS_KEY": "canary/secret/access/key/canary/canary/00",
    "AWS_SESSION_TOKEN": "canary-session-token-canary",
    "CFBUS_VIEW_PASSWORD": "canary-password-of-the-page",
}
IN_ADDRESS = ("canarypassword", "canarytoken")
ADMIN = (
    "status", "workers", "leases", "story pictures-00000", "config show", "config diff", "config answers", "reload",
    "keys list", "keys export", "contributors list", "invites list", "audit", "pause", "resume", "drain", "nonsense",
)  # fmt: skip


def forms(secret: str) -> set[bytes]:
    """How a secret could be written."""
    found = {secret.encode(), base64.b64encode(secret.encode())}
    if len(secret) == 40 and " " not in secret:
        try:
            raw = zmq.utils.z85.decode(secret)
        except ValueError:
            return found
        found |= {raw, raw.hex().encode(), base64.b64encode(raw)}
    return found


class Canaries:
    """All secrets of a bus, and what was said and written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[str, str] = {}

    def secrets(self) -> set[bytes]:
        halves = {
            found
            for path in self.folder.rglob("*.key_secret")
            for found in re.findall(r'secret-key = "(.{40})"', path.read_text())
        }
        assert len(halves) >= 5
        return {form for secret in (*halves, *ENVIRONMENT.values(), *IN_ADDRESS) for form in forms(secret)}

    def look(self) -> None:
        """Nothing of it anywhere, but in key files and in configurations that only their owner reads."""
        secrets = self.secrets()
        for what, text in self.said.items():
            assert not [secret for secret in secrets if secret in text.encode()], what
        for path in self.folder.rglob("*"):
            if not path.is_file() or path.suffix == ".key_secret":
                continue
            data = path.read_bytes()
            if [secret for secret in secrets if secret in data]:
                assert path.name in ("cfbus.yaml", "ada.invite"), path
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.fixture
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canaries]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Canaries(tmp_path)
    yield made
    made.look()


def test_a_bus_that_is_asked_everything(nursery: Nursery, canaries: Canaries, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    make_pictures(pictures, 0, 30)
    bus = Terminals(nursery, tmp_path / "bus", "captions.engine=palette", images=pictures)
    loud = ("--log-level", "debug")
    daemons = {name: bus.start(name, *loud) for name in ("broker", "writer", "gpu-0")}
    daemons["feeder"] = bus.start("feeder", *loud, "--host", "127.0.0.1", "--port", "0")
    with bus.watch() as watch:
        watch.until("some are captioned", lambda status: status.done > 0)

    def told(module: str, *arguments: str | Path) -> None:
        command = nursery.start(module, *arguments)
        command.process.wait(PATIENCE_SECONDS)
        canaries.said[f"{module} {arguments}"] = command.said

    def admin(*words: str) -> None:
        told("cfbus.tools.admin", "--config", bus.config, *words)

    admin("invite", "ada", "--endpoint", "tcp://bus.example.org:7710", "--out", str(tmp_path / "ada.invite"))
    for verb in ADMIN:
        admin(*verb.split())
        admin(*verb.split(), "--json")
    key_file = bus.folder / "keys" / "gpu-0.key_secret"
    told("cfbus.tools.main", "check", bus.config)
    told("cfbus.tools.main", "doctor", "--config", bus.config)
    told("cfbus.tools.main", "keys", "inspect", key_file)
    told("cfbus.tools.main", "join", "--yes", f"@{tmp_path / 'ada.invite'}")
    told("cfbus.tools.main", "journal", bus.store)
    told("cfbus.tools.main", "keygen", tmp_path / "fresh")
    told("cfbus.tools.top", "--config", bus.config, "--json")
    told("cfbus.daemons.gpu", "--config", bus.config, "--show-report")
    told("cfbus.daemons.gpu", "--config", key_file)
    for name, daemon in daemons.items():
        canaries.said[f"command line of {name}"] = Path(f"/proc/{daemon.pid}/cmdline").read_text()
    for name in ("gpu-0", "feeder", "writer", "broker"):
        daemons[name].signal(signal.SIGTERM)
        canaries.said[name] = daemons[name].ends(0)
    assert "bus.welcomed" in canaries.said["gpu-0"]


def test_a_run_over_addresses_with_passwords(nursery: Nursery, canaries: Canaries, tmp_path: Path) -> None:
    password, token = IN_ADDRESS
    data = shard(tmp_path / "made.tar", 0, 5)
    with serving({"/set/a.tar": Ranged(data), "/set/b.tar": status(403)}) as web:
        address = f"http://user:{password}@127.0.0.1:{web.port}/set/{{a,b}}.tar?token={token}"

        def told(*arguments: str | Path) -> None:
            command = nursery.start("cfbus.tools.main", *arguments)
            command.process.wait(PATIENCE_SECONDS)
            canaries.said[f"{arguments}"] = command.said

        told("run", address, "--out", tmp_path / "out", "--engine", "palette")
        told("run", "--out", tmp_path / "out")
        told("init", tmp_path / "bus", "--images", address)
        told("check", tmp_path / "bus" / "cfbus.yaml")
        told("doctor", "--config", tmp_path / "bus" / "cfbus.yaml")
        told("view", tmp_path / "out", "--html", tmp_path / "page.html")
    assert "5 captions written" in "".join(canaries.said.values())
    kept = [path for path in tmp_path.rglob("cfbus.yaml") if password in path.read_text()]
    assert len(kept) == 2


CRASH = """
import pathlib, sys
from cfbus.daemons import gpu
KEY = pathlib.Path(sys.argv.pop())
def broken(self):
    raise RuntimeError(f"it broke with {secret()}")
def secret():
    from cfbus.bus import keys
    return keys.load(KEY).secret.decode()
gpu.GpuDaemon.serve = broken
gpu.main()
"""


def test_a_crash_whose_words_hold_the_key(nursery: Nursery, canaries: Canaries, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus", "captions.engine=palette")
    key_file = str(bus.folder / "keys" / "gpu-0.key_secret")
    command = [sys.executable, "-c", CRASH, "--config", str(bus.config), "--log-level", "debug", key_file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    canaries.said["crash"] = done.stdout + done.stderr
    assert done.returncode == 70, canaries.said["crash"]
    assert "it broke with" in canaries.said["crash"]
    assert "bug in cfbus" in canaries.said["crash"]


def test_the_test_sees_what_is_told(canaries: Canaries, nursery: Nursery, tmp_path: Path) -> None:
    bus = Terminals(nursery, tmp_path / "bus")
    half = re.findall(r'secret-key = "(.{40})"', (bus.folder / "keys" / "admin.key_secret").read_text())[0]
    for form in (half, zmq.utils.z85.decode(half).hex(), base64.b64encode(zmq.utils.z85.decode(half)).decode()):
        canaries.said["told"] = f"the key is {form}"
        with pytest.raises(AssertionError, match="told"):
            canaries.look()
    canaries.said.clear()
    leak = tmp_path / "bus" / "left.txt"
    leak.write_text(ENVIRONMENT["HF_TOKEN"])
    with pytest.raises(AssertionError, match=r"left\.txt"):
        canaries.look()
    leak.unlink()
