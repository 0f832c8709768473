"""`cfbus export`: captions as other programs read them.

Knows flags, and how to tell what became of it; what is written, and how, is ``cfbus.exports``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cfbus.errors import EXIT_DONE, EXIT_NOTHING_FOUND, EXIT_PARTLY, UsageError
from cfbus.exports.exporting import OnPart, Outcome, export
from cfbus.exports.request import Format, Request
from cfbus.logs import display
from cfbus.runtime import last_frame
from cfbus.store.folder import Store
from cfbus.tools.screen import answer, screen


def moment(text: str) -> int:
    """Microseconds UTC of a date or time; without a zone it is UTC. Raises ``UsageError``."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        hint = "Write it like 2026-11-25T09:00:00Z, or 2026-11-25."
        raise UsageError(f"{display(text)!r} is no time.", hint) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return round(found.timestamp() * 1_000_000)


@contextmanager
def _shown(console: Console) -> Iterator[OnPart]:
    bar = Progress(
        TextColumn("exporting"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task("", total=None, rows=0)

    def on_part(behind: int, total: int, rows: int) -> None:
        bar.update(task, completed=behind, total=total, rows=rows)

    with bar:
        yield on_part


def _told(outcome: Outcome, out: Path, request: Request) -> int:
    tally = outcome.tally
    rows = "images" if request.by_image else "captions"
    if not tally.written and not tally.left_out:
        answer(f"No caption is as it was asked for; the store is sealed up to position {outcome.position:,}.")
        return EXIT_NOTHING_FOUND
    again = ", those of the run that was cut off among them" if outcome.resumed else ""
    answer(f"{tally.written:,} {rows} exported to {display(str(out))}{again} (position {outcome.position:,}).")
    reasons = {
        "lie behind files with another text, which were kept (--overwrite replaces them)": tally.kept,
        "have the same file name as another one (try --by-shard, or a single --slot)": tally.doubled,
        "have keys that make no file name": tally.unsafe,
        "belong to images that were not found in --images": tally.missing,
    }
    for reason, count in reasons.items():
        if count:
            answer(f"{count:,} {reason}.")
    return EXIT_PARTLY if tally.left_out else EXIT_DONE


def _run(folder: Path, out: Path, request: Request, *, overwrite: bool) -> int:
    with _shown(screen(sys.stderr)) as on_part:
        outcome = export(Store.peek(folder), out, request, overwrite=overwrite, on_part=on_part)
    return _told(outcome, out, request)


def _many(values: str) -> tuple[str, ...]:
    return tuple(filter(None, (each.strip() for each in values.split(","))))


@click.command()
@click.argument("store", type=click.Path(path_type=Path, readable=False))
@click.argument("out", type=click.Path(path_type=Path, readable=False))
@click.option("--format", "kind", type=click.Choice([str(each) for each in Format]), default="parquet",
              show_default=True, help="What to write.")  # fmt: skip
@click.option("--rows", type=click.Choice(["captions", "images"]), default="captions", show_default=True,
              help="In tables: a row for each caption, or for each image with all its slots.")  # fmt: skip
@click.option("--slot", "slots", multiple=True, metavar="NAME", help="Only this slot; repeatable.")
@click.option("--shard", "shards", multiple=True, metavar="NAME", help="Only this shard; * for anything; repeatable.")
@click.option("--where", default="", metavar="SQL", help="Only captions for which this condition holds.")
@click.option("--columns", default="", metavar="A,B", help="Only these columns, in this order.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many rows.")
@click.option("--revision", type=click.IntRange(min=0), help="As it was before later passes.")
@click.option("--as-of", default="", metavar="TIME", help="Only what was received until then (UTC).")
@click.option("--with-empty", is_flag=True, help="Captions without a text too.")
@click.option("--pseudonyms", is_flag=True, help="Numbers for contributors, and no column that tells them apart.")
@click.option("--by-shard", is_flag=True, help="txt: in a folder for each shard.")
@click.option("--images", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER",
              help="webdataset: pack the samples of the tars in this folder too.")  # fmt: skip
@click.option("--raw-csv", is_flag=True, help="csv: texts as they are, also what a spreadsheet takes for a formula.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there, and begin anew.")
def command(
    store: Path, out: Path, kind: str, rows: str, slots: tuple[str, ...], shards: tuple[str, ...], where: str,
    columns: str, limit: int | None, revision: int | None, as_of: str, with_empty: bool, pseudonyms: bool,
    by_shard: bool, images: Path | None, raw_csv: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Write the captions of STORE to the folder OUT. Works beside a run; run it again to go on where it was cut off.

    Exit code 4 when nothing was found, 5 when something could not be written.
    """

    def act() -> int:
        request = Request(
            Format(kind), by_image=rows == "images", slots=tuple(dict.fromkeys(slots)), shards=tuple(shards),
            where=where, columns=_many(columns), limit=limit, revision=revision,
            as_of=moment(as_of) if as_of else None, with_empty=with_empty, pseudonyms=pseudonyms, by_shard=by_shard,
            images=images.resolve() if images else None, raw_csv=raw_csv,
        )  # fmt: skip
        return _run(store, out, request, overwrite=overwrite)

    sys.exit(last_frame(act))
