"""`cfbus import`: captions that another captioner wrote, so that their images are not captioned again.

Knows the lines of the file and how to tell what became of them; what is stored is ``cfbus.store.importing``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import click

from cfbus.bus.fields import MAX_CAPTION_BYTES
from cfbus.errors import EXIT_DONE, EXIT_NOTHING_FOUND, EXIT_PARTLY, UsageError
from cfbus.logs import display
from cfbus.runtime import last_frame
from cfbus.store.folder import Store
from cfbus.store.importing import Given, Imported, bring_in
from cfbus.store.manifest import Manifest
from cfbus.tools.screen import answer

MAX_LINE = 16 << 20
_NAMES = ("filename", "file_name", "item_key", "image")


def read(path: Path, slots: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Key or file name, and the caption of each slot, of each line. ``slots`` names the field of each.

    Raises ``UsageError`` with the number of a line that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if line.strip():
                    yield _parsed(line, f"{display(str(path))}, line {number}", slots)
    except OSError as error:
        raise UsageError(f"{display(str(path))} cannot be read: {error.strerror}.", "Check the path.") from error


def _parsed(line: bytes, where: str, slots: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"{where}: it is no JSON.", "Each line must be a JSON object.") from None
    name = next((facts[each] for each in _NAMES if each in facts), None) if isinstance(facts, dict) else None
    if not isinstance(name, str):
        raise UsageError(f"{where}: it names no file.", f"It needs one of the fields {', '.join(_NAMES)}.")
    captions = facts.get("captions")
    found = facts | captions if isinstance(captions, dict) else facts
    return name, {slot: text for slot, of in slots.items() if (text := _text(found.get(of), where)) is not None}


def _text(value: object, where: str) -> str | None:
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{where}: a caption is no text.", "Take the lone surrogates out of it.") from None
    if size > MAX_CAPTION_BYTES:
        raise UsageError(f"{where}: a caption has {size:,} bytes; {MAX_CAPTION_BYTES:,} are the most.", "Shorten it.")
    return value


def _slots(given: tuple[str, ...], known: tuple[str, ...]) -> dict[str, str]:
    """The field that each slot of the pass is in."""
    fields = {slot: slot for slot in known}
    if len(known) == 1:
        fields = {known[0]: "caption"}
    for each in given:
        slot, sign, of = each.partition("=")
        if slot not in known or not sign or not of:
            raise UsageError(
                f"--slot {display(each)} does not say where a slot of the store is.",
                f"Write NAME=FIELD; the slots are {', '.join(known)}.",
            )
        fields[slot] = of
    return fields


def _run(folder: Path, path: Path, slots: tuple[str, ...], contributor: str, model: str) -> int:
    with (
        Store.open(folder, Store.peek(folder).dataset, create=False) as store,
        closing(Manifest.open(store)) as manifest,
    ):
        newest = manifest.newest_pass()
        captions = dict(read(path, _slots(slots, newest.slots if newest is not None else ())))
        given = Given(captions, contributor, model, path.name, time.time_ns() // 1000)
        told = bring_in(store, manifest, given)
    return _told(told, contributor)


def _told(told: Imported, contributor: str) -> int:
    if told.items:
        who = display(contributor, 80)
        answer(
            f"{told.items:,} items have {told.rows:,} captions of {who} now (revision 0, position {told.position:,})."
        )
    reasons = {
        "were done already, and are as they were": told.done_before,
        "have no caption for a slot of the store, and were left out": told.incomplete,
        "names are those of several items, and were left out": told.unclear,
        "names are those of no item": told.unknown,
    }
    for reason, count in reasons.items():
        if count:
            answer(f"{count:,} {reason}.")
    if not told.items:
        return EXIT_DONE if told.done_before and not _left(told) else EXIT_NOTHING_FOUND
    return EXIT_PARTLY if _left(told) else EXIT_DONE


def _left(told: Imported) -> int:
    return told.incomplete + told.unclear + told.unknown


@click.command()
@click.argument("store", type=click.Path(path_type=Path, readable=False))
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--slot", "slots", multiple=True, metavar="NAME=FIELD", help="The field that holds a slot; repeatable.")
@click.option("--contributor", default="imported", show_default=True, metavar="ID", help="Who is credited.")
@click.option("--model", default="", metavar="NAME", help="The model that wrote them.")
def command(store: Path, file: Path, slots: tuple[str, ...], contributor: str, model: str) -> None:
    """Take captions from FILE (JSON lines with filename and captions) into STORE; their images count as done.

    The images must be listed already, and no run may go on.
    """
    sys.exit(last_frame(lambda: _run(store, file, slots, contributor, model)))
