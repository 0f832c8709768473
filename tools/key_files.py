"""`cfbus keys inspect`: what a key file is, without showing what is secret in it.

Reads one file as it lies there and looks into nothing else, but for a registry that was named.
"""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path
from typing import Final

import click

from cfbus import logs
from cfbus.bus import keys
from cfbus.errors import EXIT_DONE, CfbusError
from cfbus.runtime import last_frame
from cfbus.store.registry import Registry
from cfbus.store.registry_rows import date
from cfbus.tools.main import Verbs
from cfbus.tools.screen import answer

UNKNOWN: Final = "only the broker knows (cfbus-admin keys show)"


def inspect(path: Path, data_dir: Path | None) -> tuple[dict[str, str], CfbusError | None]:
    """What the file is, and why a daemon would not take it, if it would not."""
    known = keys.look(path)
    problem: CfbusError | None = None
    if known.has_secret:
        try:
            keys.load(path)
        except CfbusError as error:
            problem = error
    elif known.public is None:
        try:
            keys.load_public(path)
        except CfbusError as error:
            problem = error
    role, state, expires = known.role or UNKNOWN, UNKNOWN, UNKNOWN
    if data_dir is not None and known.public is not None:
        role, state, expires = _registered(known.public, data_dir)
    said = {
        "file": str(path),
        "name": known.name,
        "fingerprint": keys.fingerprint(known.public) if known.public is not None else "none",
        "line": keys.public_line(known.public, known.name or path.stem[:64]) if known.public is not None else "none",
        "halves": {True: "both, and they match", False: "both, but they do not match", None: "public only"}[
            known.match
        ],
        "mode": f"{stat.S_IMODE(known.mode):04o}",
        "role": role,
        "state": state,
        "expires": expires,
        "problem": str(problem) if problem is not None else "",
    }
    return said, problem


def _registered(public: bytes, data_dir: Path) -> tuple[str, str, str]:
    with Registry.open(data_dir / "registry.sqlite", create=False) as registry:
        row = registry.key(public)
        if row is None:
            return "not in this registry", "unknown", "unknown"
        return row.role.value, registry.key_table(time.time())[public].state.value, date(row.not_after)


@click.group(cls=Verbs, subcommand_metavar="VERB [ARGS]...")
def command() -> None:
    """Look at key files."""


@command.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Look role, state and end up in the registry in this folder."
)
@click.option("--json", "in_json", is_flag=True, help="JSON in one line, for scripts.")
def inspect_file(file: Path, data_dir: Path | None, in_json: bool) -> None:
    """What a key FILE is: fingerprint, role, end, mode, and whether its halves match. No secret is shown."""

    def go() -> int:
        said, problem = inspect(file, data_dir)
        lines = [f"{name:<12} {logs.display(value, 300)}" for name, value in said.items() if value]
        answer(json.dumps(said) if in_json else "\n".join(lines))
        return problem.exit_code if problem is not None else EXIT_DONE

    sys.exit(last_frame(go))
