"""`cfbus demo`: captions the photographs that scikit-image ships, and shows a few of them in a table."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from cfbus.errors import UsageError
from cfbus.logs import display
from cfbus.runtime import last_frame
from cfbus.tools import local, run

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
SLOTS = {"short": "Describe this image in one short sentence.", "detailed": "Describe this image in detail."}
SHOWN = 5


def photographs(folder: Path) -> Path:
    """A folder with links to the photographs of the installed scikit-image."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise UsageError("The photographs of the demo are not here.", "Install them: pip install 'cfbus[demo]'")
    source = Path(found.origin).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        copy = folder / name
        if (source / name).exists() and not copy.exists():
            copy.write_bytes((source / name).read_bytes())
    return folder


def rows(store: Path, slot: str) -> list[tuple[str, str]]:
    """Key and caption of every image in one slot."""
    table = ds.dataset(store / "captions", format="parquet").to_table(
        columns=["item_key", "caption"], filter=ds.field("slot") == slot
    )
    return sorted(zip(table["item_key"].to_pylist(), table["caption"].to_pylist(), strict=True))


def show(console: Console, captions: Iterable[tuple[str, str]]) -> None:
    """A table of images and captions."""
    table = Table("image", "caption", title="A few of the captions", show_lines=True)
    for key, caption in captions:
        table.add_row(display(key, 40), display(caption, 400))
    console.print(table)


@click.command()
@click.option("--out", default="demo-out", show_default=True, type=click.Path(path_type=Path), help="Where to.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 16), help="How many workers.")
def command(out: Path, workers: int) -> None:
    """Caption a dozen photographs on this machine: broker, writer and workers as processes of their own."""
    console = Console(highlight=False)

    def go() -> int:
        folder = photographs(out / "photographs")
        wanted = local.Wanted((folder,), out / "captions", SLOTS, "palette", None, ())
        code = run.caption(wanted, workers, console, os.environ)
        found = rows(out / "captions", "short")
        show(console, found[:: max(1, len(found) // SHOWN)][:SHOWN])
        console.print("These were written by 'palette', which measures size, light and colours; it is no")
        console.print("vision-language model, and every row says so in its 'model' column.")
        console.print()
        console.print("Your own pictures:  cfbus run FOLDER --out captions")
        console.print(f"All of these:       {out / 'captions' / 'captions'}/*.parquet")
        return code

    sys.exit(last_frame(go))
