"""`cfbus init`: everything for a bus of one's own, in one folder: a commented configuration and keys.

The configuration is written last and whole: where it lies, the keys that it names lie too. What is there is kept.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from cfbus import config
from cfbus.bus.messages import Role
from cfbus.config_overlay import Option
from cfbus.config_types import folder_problem
from cfbus.errors import EXIT_DONE, UsageError
from cfbus.runtime import last_frame
from cfbus.sources.base import NothingKnown
from cfbus.sources.opening import open_source
from cfbus.store.durable import disk_errors, new_file, publish
from cfbus.tools import keyring
from cfbus.tools.local import KEY_FILES
from cfbus.tools.screen import answer

ROLES = {"writer": Role.WRITER, "gpu-0": Role.WORKER, "admin": Role.ADMIN}
NO_FILE = Path(os.devnull)
"""A new bus begins with the defaults, whatever configuration lies about where it is made."""


def initialise(folder: Path, images: tuple[Path, ...], overrides: tuple[str, ...]) -> Path:
    """Write FOLDER/cfbus.yaml and the keys; returns the configuration's path. What is there is never changed.

    Raises ``UsageError`` and its kind before anything is written, if something is wrong with what was asked.
    """
    folder = folder.absolute()
    problem = folder_problem(folder)
    if problem:
        raise UsageError(f"{folder} cannot be the folder for the bus: {problem}.", "Name an empty or new folder.")
    path = folder / "cfbus.yaml"
    with disk_errors(path):
        if path.exists():
            raise UsageError(f"{path} is there already.", "Edit it, or choose another folder.")
    wanted: list[str | Option] = [*_flags(folder, images), *overrides]
    settings = config.load("init", NO_FILE, wanted, os.environ).config
    if images:
        next(open_source(settings.dataset).shards(NothingKnown()), None)
    ring = keyring.prepare(folder / "keys", folder / "broker" / "registry.sqlite", ROLES)
    line = ring.server_line()
    known = [Option("the broker's key", (who, "server_key"), line) for who in ("writer", "worker", "admin")]
    settings = config.load("init", NO_FILE, [*wanted, *known], os.environ).config
    with new_file(folder / "cfbus.yaml.new") as file:
        file.write(config.write_commented(settings, folder).encode())
    publish(folder / "cfbus.yaml.new", path)
    return path


def _flags(folder: Path, images: tuple[Path, ...]) -> list[Option]:
    places = {
        ("storage", "data_dir"): folder / "captions",
        ("broker", "data_dir"): folder / "broker",
        ("worker", "spool_dir"): folder / "spool",
        **{(who, "key_file"): folder / "keys" / f"{name}.key_secret" for who, name in KEY_FILES.items()},
    }
    flags = [Option("FOLDER", path, str(place)) for path, place in places.items()]
    if images:
        named = json.dumps([str(image.absolute()) for image in images])
        flags.append(Option("--images", ("dataset", "paths"), named))
    return flags


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--images", multiple=True, type=click.Path(path_type=Path, readable=False), help="A folder of images; repeatable."
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
def command(folder: Path, images: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Write a commented cfbus.yaml and the keys of a bus into FOLDER."""

    def go() -> int:
        path = initialise(folder, images, overrides)
        answer(f"Wrote {path} and the keys in {path.parent / 'keys'}.")
        if not images:
            answer("Name your folders of images in it: dataset.paths.")
        answer("Start the bus, each in a terminal of its own:")
        for daemon in ("cfbus-broker", "cfbus-writer", "cfbus-gpu --gpu-id 0"):
            answer(f"  {daemon} --config {path}")
        answer(f"See how it goes:\n  cfbus-admin --config {path} status")
        return EXIT_DONE

    sys.exit(last_frame(go))
