"""Whether a dataset has the columns that prompts need, before the first lease.

What it is for: with `captions.missing_column: fail` a misspelt column would make every item a dead letter. Folders have
no columns; of tars the first samples are read.
It must not know the bus. A source that cannot be read here (a broker's host need not have the data) is no error.

Invariant: at most `LOOKED_AT` items of one shard are read.
"""

from __future__ import annotations

from difflib import get_close_matches

from cfbus.config import Config
from cfbus.core.prompts import columns_in
from cfbus.errors import ConfigError, SourceError
from cfbus.logs import display
from cfbus.sources.base import ColumnsApart, Item, NothingKnown, ReadError, Source
from cfbus.sources.opening import open_source

LOOKED_AT = 5


def check_columns(settings: Config) -> None:
    """Raises ConfigError for a column that prompts need and none of the first items has."""
    captions = settings.captions
    needed = {column: slot for slot, each in captions.slots.items() for column in columns_in(each.prompt)}
    if not needed or captions.missing_column != "fail" or settings.dataset.source == "scripted":
        return
    there = set() if settings.dataset.source == "folder" else _first_columns(settings)
    if there is None:
        return
    for column, slot in needed.items():
        if column not in there:
            raise ConfigError(
                f"captions.slots.{slot}: its prompt needs the column {display(column, 60)!r},"
                f" {_what_is(column, there)}.",
                "Mend the prompt, or say with captions.missing_column what an item without it gets: empty or skip.",
            )


def _what_is(column: str, there: set[str]) -> str:
    if not there:
        return "and images in folders have no columns"
    near = get_close_matches(column, sorted(there), 1, 0.6)
    meant = f"; did you mean {display(near[0], 60)}?" if near else ""
    names = ", ".join(display(name, 40) for name in sorted(there)[:20])
    return f"which none of the first items has (they have {names}{meant})"


def _first_columns(settings: Config) -> set[str] | None:
    """The columns of the first items, None where they cannot be read."""
    try:
        source = open_source(settings.dataset)
    except SourceError:
        return None
    try:
        return _columns_of(source)
    except SourceError:
        return None
    finally:
        source.close()


def _columns_of(source: Source) -> set[str] | None:
    shard = next(source.shards(NothingKnown()), None)
    found: set[str] = set()
    read = 0
    for index, key in enumerate(shard.keys[:LOOKED_AT] if shard is not None else ()):
        assert shard is not None
        item = Item(index, key, shard.locators[index])
        try:
            columns = (
                source.columns(item) if isinstance(source, ColumnsApart) else source.read(shard.name, item).columns
            )
        except ReadError:
            continue
        found |= set(columns)
        read += 1
    return found if read else None
