"""`cfbus demo`: captions the photographs that scikit-image ships, and shows a few of them in a table.

Does what `cfbus run` does, on pictures that everybody has; says plainly that the engine is no vision-language model.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cfbus.config_types import folder_problem
from cfbus.errors import EXIT_DONE, UsageError
from cfbus.logs import display
from cfbus.runtime import last_frame
from cfbus.store.durable import disk_errors, make_dir
from cfbus.tools import local, run
from cfbus.tools.screen import screen

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
SHOWN = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg")
MAX_WIDTH = 120
SLOTS = {"short": "Describe this image in one short sentence.", "detailed": "Describe this image in detail."}


@dataclass(frozen=True, slots=True)
class Caption:
    """One row of the table of captions."""

    key: str
    slot: str
    text: str
    model: str


def photographs(folder: Path) -> Path:
    """A folder with copies of the photographs of the installed scikit-image; those that are there are left alone."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise UsageError("The photographs of the demo are not here.", "Install them: pip install 'cfbus[demo]'")
    source = Path(found.origin).parent / "data"
    problem = folder_problem(folder)
    if problem:
        raise UsageError(f"{folder} cannot be a folder: {problem}.", "Name another --out.")
    make_dir(folder)
    for name in PHOTOGRAPHS:
        copy = folder / name
        if (source / name).exists() and not copy.exists():
            with disk_errors(copy):
                fresh = folder / f".{name}.new"
                fresh.write_bytes((source / name).read_bytes())
                fresh.replace(copy)
    return folder


def captions_of(store: Path, keys: Sequence[str]) -> list[Caption]:
    """The captions of these images in the order of the keys, each slot in the order of ``SLOTS``."""
    columns = ["item_key", "slot", "caption", "model"]
    wanted = ds.field("item_key").isin(list(keys))
    table = ds.dataset(store / "captions", format="parquet").to_table(columns=columns, filter=wanted)
    rows = [Caption(row["item_key"], row["slot"], row["caption"], row["model"]) for row in table.to_pylist()]
    order = list(SLOTS)
    return sorted(
        (row for row in rows if row.slot in order), key=lambda row: (keys.index(row.key), order.index(row.slot))
    )


def show(console: Console, captions: Iterable[Caption], title: str = "Some of the photographs") -> None:
    """A table of images and captions; the name of an image stands at its first caption."""
    table = Table(title=title, title_justify="left", width=min(console.width, MAX_WIDTH))
    table.add_column("image", style="bold", overflow="fold")
    table.add_column("slot", style="cyan", no_wrap=True)
    table.add_column("caption", ratio=1)
    before = ""
    for caption in captions:
        if before and caption.key != before:
            table.add_section()
        name = "" if caption.key == before else display(caption.key, 40)
        table.add_row(*map(Text, (name, display(caption.slot, 32), display(caption.text, 600))))
        before = caption.key
    console.print(table)


def closing(console: Console, store: Path, models: Sequence[str]) -> None:
    """What this was, where it is, what to do next."""
    console.print(
        f"All were written by {', '.join(models)}: it measures size, light and colours, and names no objects. "
        "Every row says so in its column 'model'.",
        markup=False,
        soft_wrap=False,
    )
    console.print()
    console.print("What next:")
    console.print("  your own pictures    cfbus run PICTURES --out captions", markup=False)
    console.print(f"  the settings used    {store / 'cfbus.yaml'}", markup=False)
    console.print("  a bus of your own    cfbus init BUS --images PICTURES", markup=False)


@click.command()
@click.option(
    "--out",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path, readable=False),
    help="The folder for all of it.",
)
@click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(1, 16), help="How many workers to start here."
)
def command(out: Path, workers: int) -> None:
    """Caption a dozen photographs on this machine, with broker, writer and workers as processes of their own."""
    console = screen(sys.stdout)

    def go() -> int:
        folder, store = photographs(out / "photographs"), out / "captions"
        wanted = local.Wanted((folder,), store, SLOTS, "palette", None, ())
        code = run.caption(wanted, workers, console, os.environ)
        if code == EXIT_DONE:
            found = captions_of(store, SHOWN)
            console.print()
            show(screen(sys.stdout, wrap=True), found)
            closing(console, store, sorted({caption.model for caption in found}))
        return code

    sys.exit(last_frame(go))
