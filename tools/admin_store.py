"""`cfbus-admin dead-letters`, `scan`, `rebuild-ledger`: what is done on the host of the store or of the broker itself.

These read files, so whoever may read those may use them; no key is asked for, and the audit log is the broker's. What
could be changed while somebody works with it is refused by that one's lock.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from cfbus import logs
from cfbus.errors import DamagedStoreError, StoreInUseError
from cfbus.store.folder import Store
from cfbus.store.ledger import set_aside
from cfbus.store.scan import Finding, compare
from cfbus.store.view import open_view
from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, run
from cfbus.tools.asking import Told
from cfbus.tools.screen import answer

COLUMNS = ("shard", "item_index", "item_key", "reason", "fault", "attempts", "detail", "who")
SHOWN = 100


@click.command("dead-letters")
@click.option("--reason", help="Only with this reason.")
@click.option("--by-reason", is_flag=True, help="Only how many there are of each.")
@click.option("--all", "everything", is_flag=True, help=f"All of them, not the first {SHOWN}.")
@JSON
@click.pass_obj
def dead_letters(where: Where, reason: str | None, *, by_reason: bool, everything: bool, in_json: bool) -> None:
    """What was given up on, and why: the sealed rows of `failures`, read on the store's host."""

    def go() -> None:
        rows = open_view(where.settings().storage.data_dir).failures.arrow(COLUMNS).to_pylist()
        rows = [row for row in rows if reason in (None, row["reason"])]
        if by_reason:
            counts = Counter(str(row["reason"]) for row in rows)
            told = Told((), ("reason", "count"), tuple((name, str(count)) for name, count in counts.most_common()))
        else:
            cells = [tuple(_cell(row[name]) for name in COLUMNS) for row in rows]
            shown = cells if everything or in_json else cells[:SHOWN]
            told = Told((("dead_letters", str(len(cells))),), COLUMNS, tuple(shown))
        answer(as_json(told) if in_json else as_text(told))

    run(go)


def _cell(value: object) -> str:
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


@click.command()
@click.option("--fix", is_flag=True, help="Set a ledger aside that is of another store, or cannot be read.")
@JSON
@click.pass_obj
def scan(where: Where, *, fix: bool, in_json: bool) -> None:
    """Compare manifest, segments, listing, journal and ledger, on the store's host. Exit code 74 if anything differs.

    While a writer runs, journal and files that nobody knows are left out."""

    def go() -> None:
        settings = where.settings()
        found, locked = _compare(settings.storage.data_dir, settings.broker.data_dir)
        mended = []
        if fix and any(each.mends == "ledger" for each in found) and set_aside(settings.broker.data_dir) is not None:
            mended = [each for each in found if each.mends == "ledger"]
        _show(found, mended, locked=locked, in_json=in_json)
        if len(found) > len(mended):
            raise DamagedStoreError(
                f"{len(found) - len(mended)} things differ in {settings.storage.data_dir}.",
                "Each line says what puts it right; docs/durability.md has more.",
            )

    run(go)


def _compare(folder: Path, broker_dir: Path) -> tuple[list[Finding], bool]:
    seen = Store.peek(folder)
    try:
        with Store.open(folder, seen.dataset, create=False) as store:
            return compare(store, broker_dir, locked=True), True
    except StoreInUseError:
        return compare(seen, broker_dir, locked=False), False


def _show(found: list[Finding], mended: list[Finding], *, locked: bool, in_json: bool) -> None:
    if in_json:
        rows = [{"where": it.where, "what": it.what, "mends": it.mends, "mended": it in mended} for it in found]
        answer(json.dumps({"whole": locked, "findings": rows}))
        return
    lines = [f"{it.where}: {it.what}. {'Mended.' if it in mended else f'Mended by: {it.mends}.'}" for it in found]
    lines += [] if locked else ["A writer works with the store: its journal was left out."]
    answer("\n".join(logs.display(line, 500) for line in lines or ["Nothing differs."]))


@click.command("rebuild-ledger")
@JSON
@click.pass_obj
def rebuild_ledger(where: Where, *, in_json: bool) -> None:
    """Set the ledger aside, on the broker's host while none runs; the next broker learns all from the writer.

    What workers hold without an acknowledgement is done again."""

    def go() -> None:
        folder = where.settings().broker.data_dir
        aside = set_aside(folder)
        if in_json:
            answer(json.dumps({"aside": str(aside) if aside is not None else None}))
        elif aside is None:
            answer(logs.display(f"There is no ledger in {folder}: the next broker begins one.", 300))
        else:
            answer(logs.display(f"The ledger is {aside} now; the next broker begins a new one.", 300))

    run(go)
