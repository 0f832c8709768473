"""`cfbus systemd install`: units for the daemons of this machine, with the paths of this installation.

What it is for: the files of the folder ``systemd``, put where systemd looks, for the system or for one person.
What it must not know: what the daemons do, or what is in their configurations; only whether there is one.

Invariants: nothing is written with ``--dry-run``; a unit that somebody changed by hand is not overwritten; nothing is
started. A file is replaced whole or not at all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from cfbus.errors import EXIT_DONE, TryAgainError, UsageError
from cfbus.runtime import last_frame
from cfbus.store.durable import disk_errors
from cfbus.tools.main import Verbs
from cfbus.tools.screen import answer

UNITS = Path(__file__).resolve().parent.parent / "systemd"
_SHIPPED_BIN = "/opt/cfbus/bin"
_MARK = "# Installed by cfbus systemd install; put changes into a drop-in (systemctl edit), not here."
SYSTEM_PLACES = {
    "units": Path("/etc/systemd/system"), "sysusers": Path("/etc/sysusers.d"), "tmpfiles": Path("/etc/tmpfiles.d"),
    "configuration": Path("/etc/cfbus"),
}  # fmt: skip
NOT_FOR_A_PERSON = re.compile(
    r"^(User|Group|Slice|LoadCredential|CapabilityBoundingSet|AmbientCapabilities|Device\w+|PrivateDevices|PrivateMounts"
    r"|PrivateTmp|Protect\w+|ProcSubset|RemoveIPC|Environment=CFBUS_\w+__KEY_FILE|KeyringMode)\b"
)
"""What the manager of one person's services cannot do, or must not: the keys are that person's own files."""
DAEMONS = ("broker", "writer", "feeder")
_GPU = re.compile(r"[0-9]{1,4}|(GPU|MIG)-[0-9A-Za-z/-]{1,80}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and what to run after it."""

    files: Mapping[Path, str]
    commands: tuple[tuple[str, ...], ...]
    unconfigured: tuple[str, ...]


def plan(places: Mapping[str, Path], bin_folder: Path, gpus: Sequence[str], *, user: bool) -> Plan:
    """The files and commands for this machine; daemons without a configuration are installed and not enabled."""
    files = {}
    for shipped in sorted(UNITS.iterdir()):
        kind = {".service": "units", ".target": "units", ".slice": "units"}.get(shipped.suffix)
        kind = kind or shipped.name.split(".")[1]
        if kind in places:
            name = shipped.name if kind == "units" else "cfbus.conf"
            files[places[kind] / name] = _rendered(shipped.read_text(encoding="utf-8"), bin_folder, user=user)
    there = [each for each in DAEMONS if (places["configuration"] / f"{each}.yaml").exists()]
    workers = list(gpus) if (places["configuration"] / "gpu.yaml").exists() else []
    units = [f"cfbus-{each}.service" for each in there] + [f"cfbus-gpu@{gpu}.service" for gpu in workers]
    missing = [each for each in DAEMONS if each not in there] + (["gpu"] if gpus and not workers else [])
    return Plan(files, tuple(_commands(units, places, user=user)), tuple(missing))


def _rendered(text: str, bin_folder: Path, *, user: bool) -> str:
    lines = text.replace(f"{_SHIPPED_BIN}/", f"{bin_folder}/").splitlines()
    if user:
        lines = [line for line in lines if not NOT_FOR_A_PERSON.match(line)]
        lines = [line.replace("WantedBy=multi-user.target", "WantedBy=default.target") for line in lines]
    return "\n".join([_MARK, *lines]) + "\n"


def _commands(units: Sequence[str], places: Mapping[str, Path], *, user: bool) -> Iterator[tuple[str, ...]]:
    manager = ("systemctl", "--user") if user else ("systemctl",)
    if not user:
        yield ("systemd-sysusers", str(places["sysusers"] / "cfbus.conf"))
        yield ("systemd-tmpfiles", "--create", str(places["tmpfiles"] / "cfbus.conf"))
    yield (*manager, "daemon-reload")
    yield (*manager, "enable", "cfbus.target", *units)


def find_gpus(devices: Path = Path("/dev")) -> tuple[str, ...]:
    """The numbers of the NVIDIA GPUs that this machine shows."""
    found = (re.fullmatch(r"nvidia(\d+)", each.name) for each in devices.iterdir())
    return tuple(str(number) for number in sorted(int(match[1]) for match in found if match))


def wanted_gpus(given: str | None) -> tuple[str, ...]:
    """``all``, or numbers and UUIDs with commas; None: all, if there are any."""
    if given in (None, "all"):
        gpus = find_gpus()
        if given and not gpus:
            raise UsageError("This machine shows no NVIDIA GPU (/dev/nvidia0 and so on).", "Name them: --gpus 0,1")
        return gpus
    gpus = tuple(each.strip() for each in str(given).split(","))
    wrong = next((each for each in gpus if not _GPU.fullmatch(each)), None)
    if wrong is not None or len(set(gpus)) < len(gpus):
        raise UsageError("--gpus is not a list of different GPUs.", "For example: --gpus all, --gpus 0,1")
    return gpus


def install(what: Plan) -> None:
    """Write the files, then run the commands where systemd is at work."""
    for path in what.files:
        with disk_errors(path):
            if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
                raise UsageError(
                    f"{path} is there and not of this installer.",
                    "Move it away; put changes into a drop-in: systemctl edit UNIT.",
                )
    for path, text in what.files.items():
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
    for command in what.commands:
        _run(command)


def _run(command: Sequence[str]) -> None:
    program = shutil.which(command[0])
    if program is None or not Path("/run/systemd/system").is_dir():
        answer(f"systemd does not run here; where it does: {' '.join(command)}")
        return
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise TryAgainError(f"{' '.join(command)} failed: {done.stderr.strip()[:500]}", "Run it by hand to see more.")


@click.group(cls=Verbs)
def command() -> None:
    """Units, so that systemd runs the daemons of this machine."""


@command.command("install")
@click.option("--user", is_flag=True, help="For you alone, in ~/.config/systemd/user, without root.")
@click.option("--gpus", metavar="all|0,1,…", help="For which GPUs to enable a worker; by default all there are.")
@click.option("--dry-run", is_flag=True, help="Show the files and commands, and change nothing.")
def install_command(user: bool, gpus: str | None, dry_run: bool) -> None:
    """Write the units for the cfbus that is installed here, and enable the daemons that have a configuration."""

    def go() -> int:
        places = _places_of_a_person() if user else SYSTEM_PLACES
        what = plan(places, Path(sys.executable).parent, wanted_gpus(gpus), user=user)
        if dry_run:
            _show(what)
            return EXIT_DONE
        if not user and os.geteuid() != 0:
            raise UsageError("Only root can install units for the system.", "Use sudo, or --user for you alone.")
        install(what)
        answer(f"Installed {len(what.files)} files.")
        for name in what.unconfigured:
            answer(f"cfbus-{name} is not enabled: there is no {places['configuration'] / name}.yaml.")
        answer(f"Start all that is enabled: systemctl {'--user ' if user else ''}start cfbus.target")
        return EXIT_DONE

    sys.exit(last_frame(go))


def _places_of_a_person() -> Mapping[str, Path]:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return {"units": home / "systemd" / "user", "configuration": home / "cfbus"}


def _show(what: Plan) -> None:
    for path, text in what.files.items():
        answer(f"# {path}\n{text}")
    for each in what.commands:
        answer(f"$ {' '.join(each)}")
