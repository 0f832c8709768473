"""`cfbus doctor`: what keeps a daemon of this host from its broker, looked at before it is started or when it fails.

Asks one thing after another and says of each what it is and what to do; what is looked at is in ``doctor_host``,
``doctor_bus`` and ``doctor_rate``. Changes nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from cfbus import config, logs
from cfbus.bus.keys import KeyPair
from cfbus.bus.messages import Role
from cfbus.config import Loaded
from cfbus.errors import EXIT_DONE, CfbusError
from cfbus.runtime import last_frame
from cfbus.tools import doctor_bus, doctor_host, doctor_rate
from cfbus.tools.doctor_seen import Seen, Verdict, bad, note, ok
from cfbus.tools.screen import answer, screen

CHARS: Final = 600


@dataclass(frozen=True, slots=True)
class Patient:
    """A daemon that may ail: the section of its settings, and the role that its key has."""

    section: str
    role: Role


PATIENTS: Final = {
    "gpu": Patient("worker", Role.WORKER),
    "writer": Patient("writer", Role.WRITER),
    "feeder": Patient("feeder", Role.FEEDER),
    "admin": Patient("admin", Role.ADMIN),
    "top": Patient("admin", Role.MONITOR),
}


def look(name: str, loaded: Loaded, *, rate: bool) -> Generator[Seen]:
    """One thing after another."""
    settings, patient = loaded.config, PATIENTS[name]
    if loaded.path is None:
        yield note(
            "configuration", "No file was found, so the defaults count.", "`cfbus join` writes one; --config names one."
        )
    else:
        yield ok("configuration", f"{loaded.path}: nothing is wrong with it.")
    own = getattr(settings, patient.section)
    pair, seen = doctor_host.of_key(own.key_file)
    yield seen
    yield from doctor_host.of_clock(own.key_file)
    welcome = None
    if pair is not None:
        bus = _bus(settings, patient, pair)
        if isinstance(bus, Seen):
            yield bus
        else:
            yield from bus.look()
            welcome = bus.welcome
    else:
        yield note("bus", "Without a key that can be used, the broker was not dialled.")
    if name == "writer":
        yield doctor_host.of_disk("store", settings.storage.data_dir, settings.storage.seal_mib)
    if name == "gpu":
        yield doctor_host.of_disk("spool", settings.worker.spool_dir, settings.worker.spool_mib)
        spec = welcome.spec if welcome is not None else None
        yield from _of_work(loaded, spec.engine if spec is not None else "")
        if rate:
            yield from doctor_rate.of_rate(loaded, spec)


def _bus(settings: config.Config, patient: Patient, pair: KeyPair) -> doctor_bus.Bus | Seen:
    own = getattr(settings, patient.section)
    address = settings.admin.stats if patient.role is Role.MONITOR else own.server
    try:
        way = doctor_bus.way_of(patient.section, (address, own.server_key), pair, patient.role, settings.dataset.name)
    except CfbusError as error:
        return bad("broker's key", error)
    return doctor_bus.Bus(way)


def _of_work(loaded: Loaded, wanted: str) -> Iterator[Seen]:
    """What the engine needs, and whether it is the one that the bus captions with."""
    yield from doctor_host.of_engine(loaded)
    here = loaded.config.captions.engine
    if wanted and wanted != here:
        sentence = f"The bus captions with the engine {logs.display(wanted, 40)}, and this host is set up for {here}."
        hint = "Set captions.engine to it if that is what you want to lend; else the worker ends or waits."
        yield note("engine", sentence, hint)


def as_text(seen: Seen) -> str:
    """A line for a person, and one more for what to do."""
    mark = {Verdict.OK: "ok  ", Verdict.NOTE: "note", Verdict.BAD: "BAD "}[seen.verdict]
    line = f"{mark}  {seen.what:<13}  {logs.display(seen.sentence, CHARS)}"
    if not seen.hint:
        return line
    return f"{line}\n{' ' * 21}{logs.display(seen.hint, CHARS)}"


@click.command()
@click.argument("daemon", type=click.Choice(sorted(PATIENTS)), default="gpu")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The daemon's configuration file.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
@click.option("--no-rate", is_flag=True, help="Do not caption twenty images, which with vLLM loads the model.")
@click.option("--json", "in_json", is_flag=True, help="JSON, a line for each thing, for scripts.")
def command(daemon: str, config_file: Path | None, overrides: tuple[str, ...], no_rate: bool, in_json: bool) -> None:
    """Look for what keeps DAEMON (gpu, writer, feeder; admin or top, too) of this host from its work, step by step."""

    def go() -> int:
        logs.setup("doctor", "error")
        loaded = config.load(daemon, config_file, overrides, os.environ)
        code = EXIT_DONE
        console = screen(sys.stderr)
        looked = look(daemon, loaded, rate=not no_rate)
        with closing(looked):
            while True:
                with console.status("looking …"):
                    seen = next(looked, None)
                if seen is None:
                    return code
                code = code or seen.exit_code
                answer(json.dumps(asdict(seen)) if in_json else as_text(seen))

    sys.exit(last_frame(go))
