"""`cfbus init`: everything for a bus of one's own, in one folder: a commented configuration and keys.

The configuration is written last and whole: where it lies, the keys that it names lie too. What is there is kept.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
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
from cfbus.tools import captionflow, keyring
from cfbus.tools.local import KEY_FILES, place
from cfbus.tools.screen import answer

ROLES = {"writer": Role.WRITER, "gpu-0": Role.WORKER, "feeder": Role.FEEDER, "admin": Role.ADMIN}
PEERS = ("writer", "worker", "feeder", "admin")
NO_FILE = Path(os.devnull)
"""A new bus begins with the defaults, whatever configuration lies about where it is made."""


def initialise(
    folder: Path, images: tuple[str, ...], overrides: tuple[str, ...], converted: Sequence[Option] = ()
) -> Path:
    """Write FOLDER/cfbus.yaml and the keys; returns the configuration's path. What is there is never changed.

    ``converted`` are settings from elsewhere; what was typed counts more. Raises ``UsageError`` and its kind before
    anything is written, if something is wrong with what was asked.
    """
    folder = folder.absolute()
    problem = folder_problem(folder)
    if problem:
        raise UsageError(f"{folder} cannot be the folder for the bus: {problem}.", "Name an empty or new folder.")
    path = folder / "cfbus.yaml"
    with disk_errors(path):
        if path.exists():
            raise UsageError(f"{path} is there already.", "Edit it, or choose another folder.")
    wanted: list[str | Option] = [*_places(folder), *converted, *_images(images, bool(converted)), *overrides]
    settings = config.load("init", NO_FILE, wanted, os.environ).config
    wanted += _addresses(settings)
    if images:
        next(open_source(settings.dataset).shards(NothingKnown()), None)
    ring = keyring.prepare(folder / "keys", folder / "broker" / "registry.sqlite", ROLES)
    line = ring.server_line()
    known = [Option("the broker's key", (who, "server_key"), line) for who in PEERS]
    settings = config.load("init", NO_FILE, [*wanted, *known], os.environ).config
    with new_file(folder / "cfbus.yaml.new", private=config.is_private(settings)) as file:
        file.write(config.write_commented(settings, folder).encode())
    publish(folder / "cfbus.yaml.new", path)
    return path


def _places(folder: Path) -> list[Option]:
    places = {
        ("storage", "data_dir"): folder / "captions",
        ("broker", "data_dir"): folder / "broker",
        ("worker", "spool_dir"): folder / "spool",
        **{(who, "key_file"): folder / "keys" / f"{name}.key_secret" for who, name in KEY_FILES.items()},
    }
    return [Option("FOLDER", path, str(place)) for path, place in places.items()]


def _images(images: tuple[str, ...], converted: bool) -> list[Option]:
    if not images:
        return []
    named = json.dumps([place(image) for image in images])
    source = [Option("--images", ("dataset", "source"), "folder")] if converted else []
    return [*source, Option("--images", ("dataset", "paths"), named)]


def _addresses(settings: config.Config) -> list[Option]:
    """Where the others find the broker, if it was told where to listen and they were not told where it is."""
    broker = settings.broker
    anywhere = broker.host in ("0.0.0.0", "::", "localhost") or "host" not in broker.model_fields_set  # noqa: S104
    host = "127.0.0.1" if anywhere else f"[{broker.host}]" if ":" in broker.host else broker.host
    wanted = []
    for who, key, port in (*((who, "server", broker.port) for who in PEERS), ("admin", "stats", broker.stats_port)):
        address = f"tcp://{host}:{port}"
        section = getattr(settings, who)
        if port and key not in section.model_fields_set and address != getattr(section, key):
            wanted.append(Option("the broker's address", (who, key), address))
    return wanted


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, readable=False))
@click.option("--images", multiple=True, metavar="PATH", help="A folder of images, or the like; repeatable.")
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path, readable=False),
    help="A configuration of CaptionFlow (orchestrator, worker or monitor) to start from.",
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
def command(folder: Path, images: tuple[str, ...], origin: Path | None, overrides: tuple[str, ...]) -> None:
    """Write a commented cfbus.yaml and the keys of a bus into FOLDER."""

    def go() -> int:
        done = captionflow.convert(origin) if origin else None
        path = initialise(folder, images, overrides, done.options if done else ())
        for line in captionflow.report(done) if done else ():
            answer(line)
        answer(f"Wrote {path} and the keys in {path.parent / 'keys'}.")
        if not images and not (done and "dataset.paths" in done.sets):
            answer("Name your folders of images in it: dataset.paths.")
        answer("Start the bus, each in a terminal of its own:")
        for daemon in ("cfbus-broker", "cfbus-writer", "cfbus-gpu --gpu-id 0"):
            answer(f"  {daemon} --config {path}")
        answer(f"See how it goes:\n  cfbus-admin --config {path} status")
        return EXIT_DONE

    sys.exit(last_frame(go))
