"""`cfbus-admin dead-letters`, `scan`, `rebuild-ledger`: looking at what is stored, and learning it again.

Through the broker, and by the writer, as all verbs are; or with `--offline` on the files, by whoever may read those.
What could be changed while somebody works with it is then refused by that one's lock.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from cfbus import logs
from cfbus.errors import DamagedStoreError, StoreInUseError
from cfbus.store.folder import Store
from cfbus.store.ledger import set_aside
from cfbus.store.scan import Finding, compare
from cfbus.tools.admin_amend import asked
from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, ask, asker_of, given, run
from cfbus.tools.screen import answer


@click.command("dead-letters")
@click.option("--by", metavar="COLUMN", help="Only how many there are of each: by reason, fault, shard or who.")
@click.option("--reason", help="Only with this reason.")
@click.option("--fault", help="Only with this fault: item, worker, network, server.")
@click.option("--shard", help="Only of this shard.")
@JSON
@click.pass_obj
def dead_letters(
    where: Where, by: str | None, reason: str | None, fault: str | None, shard: str | None, *, in_json: bool
) -> None:  # fmt: skip
    """What was given up on, and why: the sealed rows of `failures`, the first of them. `reset --failed` has them tried
    again."""

    def go() -> None:
        told = asked(where, "dead-letters", given({"by": by, "reason": reason, "fault": fault, "shard": shard}))
        answer(as_json(told) if in_json else as_text(told))

    run(go)


@click.command()
@click.option("--fix", is_flag=True, help="Mend the ledger from the store, which is the truth.")
@JSON
@click.pass_obj
def scan(where: Where, *, fix: bool, in_json: bool) -> None:
    """Compare manifest, segments and listing, by the writer. Exit code 74 if anything differs.

    With --offline also journal and ledger, on their host; while a writer runs, journal and files that nobody knows are
    left out."""

    def go() -> None:
        settings = where.settings()
        found, locked, mended = (_on_host if where.offline else _by_writer)(where, fix)
        _show(found, mended, locked=locked, in_json=in_json)
        if len(found) > len(mended):
            raise DamagedStoreError(
                f"{len(found) - len(mended)} things differ in {settings.storage.data_dir}.",
                "Each line says what puts it right; docs/durability.md has more.",
            )

    run(go)


Scanned = tuple[list[Finding], bool, list[Finding]]
"""What differs, whether all was compared, and what of it was mended."""


def _by_writer(where: Where, fix: bool) -> Scanned:
    found = [Finding(*row) for row in asked(where, "scan", {}).rows]
    if fix:
        with asker_of(where) as asker:
            asker.ask("rebuild-ledger", {})
    return found, False, []


def _on_host(where: Where, fix: bool) -> Scanned:
    settings = where.settings()
    found, locked = _compare(settings.storage.data_dir, settings.broker.data_dir)
    if fix and any(each.mends == "ledger" for each in found) and set_aside(settings.broker.data_dir) is not None:
        return found, locked, [each for each in found if each.mends == "ledger"]
    return found, locked, []


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
    """Have the broker forget what is done, and learn all of it from the writer again.

    With --offline, on the broker's host while none runs, the ledger's file is set aside: then what workers hold without
    an acknowledgement is done again."""
    if not where.offline:
        ask(where, "rebuild-ledger", {}, in_json)

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
