"""`cfbus init`: everything for a bus of one's own, in one folder: a commented configuration and keys."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from cfbus import config
from cfbus.bus.messages import Role
from cfbus.errors import EXIT_DONE, UsageError
from cfbus.runtime import last_frame
from cfbus.sources.opening import open_source
from cfbus.tools import keyring
from cfbus.tools.local import KEY_FILES


def initialise(folder: Path, images: tuple[Path, ...], overrides: tuple[str, ...]) -> Path:
    """Write FOLDER/cfbus.yaml and the keys; returns the configuration's path."""
    folder = folder.absolute()
    path = folder / "cfbus.yaml"
    if path.exists():
        raise UsageError(f"{path} is there already.", "Edit it, or choose another folder.")
    wanted = [
        f"storage.data_dir={folder / 'captions'}",
        f"broker.data_dir={folder / 'broker'}",
        f"worker.spool_dir={folder / 'spool'}",
        *(f"{who}.key_file={folder / 'keys' / name}.key_secret" for who, name in KEY_FILES.items()),
        *([f"dataset.paths={json.dumps([str(image.absolute()) for image in images])}"] if images else []),
        *overrides,
    ]
    settings = config.load("init", None, wanted, os.environ).config
    if images:
        open_source(settings.dataset)
    roles = {"writer": Role.WRITER, "gpu-0": Role.WORKER, "admin": Role.ADMIN}
    folder.mkdir(parents=True, exist_ok=True)
    ring = keyring.prepare(folder / "keys", folder / "broker" / "registry.sqlite", roles)
    line = ring.server_line()
    known = [f"{who}.server_key={line}" for who in ("writer", "worker", "admin")]
    settings = config.load("init", None, [*wanted, *known], os.environ).config
    path.write_text(config.write_commented(settings, folder), encoding="utf-8")
    return path


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", multiple=True, type=click.Path(path_type=Path), help="A folder of images; repeatable.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
def command(folder: Path, images: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Write a commented cfbus.yaml and the keys of a bus into FOLDER."""

    def go() -> int:
        path = initialise(folder, images, overrides)
        click.echo(f"Wrote {path} and the keys in {path.parent / 'keys'}.")
        click.echo("Start the bus, each in a terminal of its own:")
        for daemon in ("cfbus-broker", "cfbus-writer", "cfbus-gpu --gpu-id 0"):
            click.echo(f"  {daemon} --config {path}")
        click.echo(f"See how it goes:\n  cfbus-admin --config {path} status")
        return EXIT_DONE

    sys.exit(last_frame(go))
