"""`cfbus journal`: looks at a store's journal when no writer runs, and rescues what is whole of a damaged one.

Knows how to say it; what is whole and how it is rescued is ``cfbus.store.salvage``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click

from cfbus.errors import EXIT_DONE, DamagedStoreError
from cfbus.runtime import last_frame
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest
from cfbus.store.salvage import Inspected, Span, inspect, salvage
from cfbus.tools.main import Verbs
from cfbus.tools.screen import answer

Opened = tuple[Store, Manifest]


@contextmanager
def _opened(folder: Path) -> Iterator[Opened]:
    """The store, locked: no writer works on it meanwhile."""
    with Store.open(folder, Store.peek(folder).dataset, create=False) as store, closing(Manifest.open(store)) as known:
        yield store, known


def _said(found: Sequence[Span]) -> str:
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in found) or "none"


def _line(one: Inspected) -> str:
    if not one.problem:
        return f"{one.path.name}: positions {_said(one.kept)}, whole."
    count = one.last - one.first + 1
    whole = f"{len(one.frames)} of {count} frames are whole (positions {_said(one.kept)})"
    return f"{one.path.name}: damaged: {one.problem}. {whole}."


def _show(found: Sequence[Inspected], sealed: int) -> bool:
    """Print what was found; whether anything is wrong."""
    answer(f"Sealed: positions up to {sealed}.")
    for one in found:
        if one.gap:
            answer(f"Positions {_said([one.gap])} are nowhere.")
        answer(_line(one))
    if not found:
        answer("The journal is empty: all that the store knows is sealed.")
    return any(one.problem or one.gap for one in found)


def _inspect(folder: Path) -> int:
    with _opened(folder) as (store, manifest):
        if _show(inspect(store, manifest), manifest.last_position()):
            raise DamagedStoreError(
                f"The journal of {folder} is damaged.",
                f"Put the files back from a backup; or keep what is whole: cfbus journal salvage {folder}",
            )
    return EXIT_DONE


def _salvage(folder: Path) -> int:
    with _opened(folder) as (store, manifest):
        found = inspect(store, manifest)
        if not _show(found, manifest.last_position()):
            answer("There is nothing to salvage.")
            return EXIT_DONE
        salvage(store, found)
        lost = [span for one in found for span in one.lost]
        answer(f"Lost: positions {_said(lost)}. What they held is captioned again by the next run.")
        answer(f"The damaged files are in {store.journal_dir / 'damaged'}; delete them when all is well.")
        journal = Journal.open(store, manifest)
        position = journal.position
        journal.close()
        answer(f"The store opens again and ends at position {position}.")
        answer(
            "If positions behind that were acknowledged, the broker says so and stops: "
            "then start cfbus-broker (or cfbus run) once with --accept-loss."
        )
    return EXIT_DONE


@click.group(cls=Verbs)
def command() -> None:
    """Look at what is durable and not sealed yet, or rescue it from damage. No writer may run."""


def _verb(name: str, act: Callable[[Path], int], text: str) -> None:
    @command.command(name, help=text)
    @click.argument("store", type=click.Path(path_type=Path, readable=False))
    def verb(store: Path) -> None:
        sys.exit(last_frame(lambda: act(store)))


_verb("inspect", _inspect, "Say of each journal file in STORE whether it is whole. Exit code 74 if one is not.")
_verb("salvage", _salvage, "Make a journal of the frames in STORE that are whole, and say what is lost.")
