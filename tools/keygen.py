"""`cfbus keygen`: makes a keypair on this host; the secret half never leaves it, and is never printed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cfbus.bus import keys
from cfbus.errors import EXIT_DONE, UsageError
from cfbus.runtime import last_frame
from cfbus.tools.screen import answer


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="The name in the public line; by default the file's name.")
def command(path: Path, name: str | None) -> None:
    """Make a keypair: PATH (ends in .key_secret; yours alone) and the public half beside it."""

    def go() -> int:
        file = path if path.suffix == ".key_secret" else path.with_name(path.name + ".key_secret")
        label = name or file.stem
        if not file.parent.is_dir():
            raise UsageError(f"There is no folder {file.parent}.", f"Make it first: mkdir -p {file.parent}")
        pair = keys.generate()
        keys.save(pair, file, label)
        answer(f"Secret key (keep it here): {file}")
        answer(f"Public line (give it to the maintainer): {keys.public_line(pair.public, label)}")
        return EXIT_DONE

    sys.exit(last_frame(go))
