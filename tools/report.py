"""What a person reads at the end of `cfbus run`: what was done, where it is, what could not be done and why.

Reads the sealed tables and the counts that it is given; changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cfbus.errors import EXIT_DEAD_LETTERS, EXIT_DONE
from cfbus.logs import display
from cfbus.store.left_out import NAME, LeftOut
from cfbus.store.view import open_view
from cfbus.tools.progress import duration

SHOWN_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Report:
    """How a store stands. ``captions`` and ``seconds`` are of this run; None when it had nothing to do."""

    out: Path
    dataset: str
    images: int
    dead_letters: int
    captions: int | None = None
    seconds: float = 0.0
    left_out: LeftOut = field(default_factory=LeftOut)


def plural(count: int, noun: str) -> str:
    """``1 image``, ``26 images``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def opening(report: Report) -> str:
    """The first line: what was done."""
    if report.captions is not None:
        took = duration(report.seconds) if report.seconds >= 60 else f"{report.seconds:.1f} s"
        written = f"{plural(report.captions, 'caption')} written in {took}"
        return f"{written}; {display(report.dataset, 60)} has {plural(report.images, 'image')}."
    rest = f" but {report.dead_letters:,} that could not be" if report.dead_letters else ""
    return f"Nothing to do: all {plural(report.images, 'image')} of {display(report.dataset, 60)} are captioned{rest}."


def failures(out: Path, most: int) -> list[tuple[str, str]]:
    """Key and reason of some dead letters, at most so many."""
    table = open_view(out).failures.dataset().head(most, columns=["item_key", "detail", "reason"])
    return [(row["item_key"], row["detail"] or row["reason"]) for row in table.to_pylist()]


def show(report: Report, console: Console) -> int:
    """Print all of it; returns the exit code that says the same."""

    def say(text: str) -> None:
        console.print(text, markup=False)

    say(opening(report))
    say(f"Captions: {report.out / 'captions'}/*.parquet")
    if report.left_out.count:
        _say_left_out(report, say)
    if report.dead_letters:
        _say_dead_letters(report, say)
    return EXIT_DEAD_LETTERS if report.dead_letters or report.left_out.grave else EXIT_DONE


def _say_left_out(report: Report, say: Callable[[str], None]) -> None:
    left = report.left_out
    things = [thing for thing in left.things if thing.grave] or left.things
    if left.grave:
        say(f"{plural(left.grave, 'thing')} that may hold images could not be listed, so nothing of it is captioned:")
    else:
        say(f"{plural(left.count, 'thing')} left out of the listing, as it should be:")
    for thing in things[:SHOWN_FAILURES]:
        say(f"  {display(thing.path, 300)}: {display(thing.reason, 200)}")
    if len(things) > SHOWN_FAILURES:
        say("  …")
    say(f"All of them: {report.out / NAME}" + ("; mend them and run the same command again" if left.grave else ""))


def _say_dead_letters(report: Report, say: Callable[[str], None]) -> None:
    say(f"{plural(report.dead_letters, 'image')} could not be captioned (dead letters):")
    for key, why in failures(report.out, SHOWN_FAILURES):
        say(f"  {display(key, 60)}: {display(why, 200)}")
    if report.dead_letters > SHOWN_FAILURES:
        say("  …")
    say(f"All of them, with reasons: {report.out / 'failures'}/*.parquet")
