"""`cfbus compact`: joins the small files of a store, beside a run or without one.

Knows flags, and how to tell it; what is joined, and how, is ``cfbus.store.compaction``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.progress import Progress

from cfbus.errors import EXIT_DONE
from cfbus.runtime import last_frame
from cfbus.store.compaction import LARGE, SMALL, compact
from cfbus.store.folder import Store
from cfbus.tools.screen import answer, screen

MIB = 1 << 20


def _run(folder: Path, small: int, large: int, keep_hours: float) -> int:
    console = screen(sys.stderr)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("compacting", total=None)
        done = compact(
            Store.peek(folder),
            time.time_ns() // 1000,
            round(keep_hours * 3_600_000_000),
            small=small * MIB,
            large=large * MIB,
            on_group=lambda number, of: bar.update(task, completed=number, total=of),
        )
    answer(
        f"{done.before:,} segments are {done.after:,}: {done.rows:,} rows ({done.size / MIB:,.1f} MiB) written anew, "
        f"{done.dropped:,} that a later pass replaced dropped, {done.removed:,} old files removed."
    )
    return EXIT_DONE


@click.command()
@click.argument("store", type=click.Path(path_type=Path, readable=False))
@click.option("--small", type=click.IntRange(min=1), default=SMALL // MIB, show_default=True,
              help="Files below so many MiB are joined ...")  # fmt: skip
@click.option("--large", type=click.IntRange(min=1), default=LARGE // MIB, show_default=True,
              help="... to files of at most so many.")  # fmt: skip
@click.option("--keep-hours", type=click.FloatRange(min=0), default=24.0, show_default=True,
              help="How long old files stay, for readers that have begun with them.")  # fmt: skip
def command(store: Path, small: int, large: int, keep_hours: float) -> None:
    """Join the small files of STORE, and drop rows that a later pass replaced. Works beside a run.

    Until the old files are removed, by a later compaction, a glob over the folder sees rows twice: use cfbus.open.
    """
    sys.exit(last_frame(lambda: _run(store, small, large, keep_hours)))
