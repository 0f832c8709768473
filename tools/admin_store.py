"""`cfbus-admin dead-letters`, `scan`, `rebuild-ledger`: looking at what is stored, and learning it again.

Through the broker, and by the writer, as all verbs are; or with `--offline` on the files, by whoever may read those.
What could be changed while somebody works with it is then refused by that one's lock.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from cfbus import logs
from cfbus.errors import DamagedStoreError, StoreInUseError
from cfbus.store.folder import Store
from cfbus.store.ledger import set_aside
from cfbus.store.scan import Compared, Finding, compare, lost
from cfbus.tools.admin_amend import POLL_SECONDS, asked
from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, ask, asker_of, given, run
from cfbus.tools.asking import Asker
from cfbus.tools.screen import answer

LEARN_SECONDS = 60.0
"""So long the broker may take to learn what is done."""


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
    """Compare ledger, journal, manifest, segments and listing. Exit code 74 if anything differs.

    The writer looks at what is stored, the broker at its ledger; with --offline you do, on their host."""

    def go() -> None:
        settings = where.settings()
        found, whole, mended = (_on_host if where.offline else _by_writer)(where, fix)
        _show(found, mended, whole=whole, in_json=in_json)
        if len(found) > len(mended):
            raise DamagedStoreError(
                f"{len(found) - len(mended)} things differ in {settings.storage.data_dir}.",
                "Each line says what puts it right; docs/durability.md has more.",
            )

    run(go)


Scanned = tuple[list[Finding], bool, list[Finding]]
"""What differs, whether all was compared, and what of it was mended."""


def _by_writer(where: Where, fix: bool) -> Scanned:
    # The ledger before the store: what is acknowledged meanwhile is no difference.
    with asker_of(where) as asker:
        told = asker.ask("ledger", {})
    ledger = [Finding(*row) for row in told.rows]
    position = int(dict(told.facts)["position"])
    told = asked(where, "scan", {})
    facts = dict(told.facts)
    found, whole, end = [Finding(*row) for row in told.rows], facts.get("whole") == "yes", int(facts.get("end", "0"))
    found += [*ledger, *([lost(position, end)] if whole and position > end else [])]
    if not fix:
        return found, whole, []
    with asker_of(where) as asker:
        asker.ask("rebuild-ledger", {})
        return found, whole, ledger if ledger and _learned(asker) else []


def _learned(asker: Asker) -> bool:
    """Whether the ledger says what the broker knows, some time after the broker began to learn it again."""
    deadline = time.monotonic() + LEARN_SECONDS
    while asker.ask("ledger", {}).rows:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _on_host(where: Where, fix: bool) -> Scanned:
    settings = where.settings()
    compared = _compare(settings.storage.data_dir, settings.broker.data_dir)
    mended = [each for each in compared.findings if each.mends == "ledger"]
    if not (fix and mended and set_aside(settings.broker.data_dir) is not None):
        mended = []
    return compared.findings, compared.whole, mended


def _compare(folder: Path, broker_dir: Path) -> Compared:
    seen = Store.peek(folder)
    try:
        with Store.open(folder, seen.dataset, create=False) as store:
            return compare(store, broker_dir, locked=True)
    except StoreInUseError:
        return compare(seen, broker_dir, locked=False)


def _show(found: list[Finding], mended: list[Finding], *, whole: bool, in_json: bool) -> None:
    if in_json:
        rows = [{"where": it.where, "what": it.what, "mends": it.mends, "mended": it in mended} for it in found]
        answer(json.dumps({"whole": whole, "findings": rows}))
        return
    lines = [f"{it.where}: {it.what}. {'Mended.' if it in mended else f'Mended by: {it.mends}.'}" for it in found]
    lines += [] if whole else ["The writer changed its journal each time it was looked at: it was left out. Try again."]
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
