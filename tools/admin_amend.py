"""`cfbus-admin requeue`, `revoke-rows`, `takedown`, `restore` and what goes with them: redo and undo.

The work is the writer's; here it is asked for through the broker, and waited for. With `--offline` it is done here, on
the folder, when no writer has it. Nothing acts before it has been counted, and a person at a terminal is asked.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import closing

import click

from cfbus import logs
from cfbus.config import Config
from cfbus.core.overriding import overridden
from cfbus.core.verbs_store import overrides_of
from cfbus.errors import TryAgainError, UsageError
from cfbus.spec import spec_of
from cfbus.store import amendments
from cfbus.store.amendments import Request
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.registry import Registry
from cfbus.store.registry_text import parse_date
from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, ask, asker_of, given, moment, run
from cfbus.tools.asking import WHO_OFFLINE, Asker, Told
from cfbus.tools.screen import answer

POLL_SECONDS, MOST_POLL_SECONDS = 0.25, 10.0
"""Each look is a line in the audit log: the longer it takes, the less often."""
MOST_SECONDS = 3600.0
DRY = click.option("--dry-run", is_flag=True, help="Only count.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
ACTS = ("requeue", "revoke-rows", "takedown", "reopen", "restore", "close-pass")


# ---------------------------------------------------------------------- asking


def asked(where: Where, verb: str, arguments: Mapping[str, str]) -> Told:
    """What came of it: of a task of the writer, which is waited for, or of the folder itself."""
    if where.offline:
        return _offline(where.settings(), verb, arguments)
    with asker_of(where) as asker:
        return _awaited(asker, dict(asker.ask(verb, arguments).facts)["task"])


def _awaited(asker: Asker, task: str) -> Told:
    deadline, pause = time.monotonic() + MOST_SECONDS, POLL_SECONDS
    try:
        while time.monotonic() < deadline:
            told = asker.ask("task", {"task": task})
            if dict(told.facts)["state"] == "done":
                return Told(told.facts[1:], told.columns, told.rows)
            time.sleep(pause)
            pause = min(2 * pause, MOST_POLL_SECONDS)
    except KeyboardInterrupt:
        click.echo(f"The writer goes on with it. What came of it: cfbus-admin task {task}", err=True)
        raise
    raise TryAgainError(f"The writer is at it for an hour now. What came of it: cfbus-admin task {task}")


def act(where: Where, verb: str, arguments: Mapping[str, str], *, dry_run: bool, yes: bool, in_json: bool) -> None:
    """Count, ask a person, do it, show what came of it."""

    def go() -> None:
        told = asked(where, verb, {**arguments, "dry-run": "yes"})
        if not dry_run:
            if not yes and sys.stdin.isatty():
                click.echo(as_text(told), err=True)
                if not click.confirm(f"{verb}: go on?", err=True):
                    raise UsageError("Nothing has changed.", "Say yes when asked, or --yes.")
            told = asked(where, verb, arguments)
        answer(as_json(told) if in_json else as_text(told))

    run(go)


# ---------------------------------------------------------------------- on the folder


def _offline(settings: Config, verb: str, arguments: Mapping[str, str]) -> Told:
    from cfbus.exports.choosing import VERBS, plan_of
    from cfbus.exports.looking import look
    from cfbus.store.importing import seal_all

    spec = spec_of(settings.captions, settings.vllm)
    slots = tuple(slot.name for slot in spec.slots)
    request = Request(verb, arguments, slots, secrets.token_hex(8), "on the host", time.time_ns() // 1000)
    folder = settings.storage.data_dir
    if verb not in ACTS:
        plan = look(Store.peek(folder), request)
        return Told(plan.facts, plan.columns, plan.rows)
    overrides = overrides_of(arguments.get("set", "{}"))
    try:
        overridden(spec, overrides)
    except ValueError as error:
        raise UsageError(f"That cannot be set: {error}.") from None
    with (
        Store.open(folder, Store.peek(folder).dataset, create=False) as store,
        closing(Manifest.open(store)) as manifest,
    ):
        seal_all(store, manifest)
        if verb not in VERBS:
            _note(settings, request)
            name, change = ("tombstone", amendments.restore) if verb == "restore" else ("pass", amendments.close)
            return Told(change(manifest, int(arguments[name]), request.task)[0])
        _note(settings, request)
        plan = plan_of(store, request, store.staging_dir)
        facts: amendments.Facts = ()
        if not (request.dry or plan.empty):
            facts, _ = amendments.carry_out(manifest, request, plan, overrides)
        return Told((*facts, *plan.facts), plan.columns, plan.rows)


def _note(settings: Config, request: Request) -> None:
    """A line in the audit log, where that is on this host, before anything changes."""
    path = settings.broker.data_dir / "registry.sqlite"
    if path.exists() and not request.dry:
        with closing(Registry.open(path, create=False)) as registry:
            registry.audit(f"uid {os.geteuid()} {WHO_OFFLINE}", request.verb, request.arguments, "begun", time.time())


# ---------------------------------------------------------------------- verbs


@click.command()
@click.option("--where", "condition", required=True, metavar="CONDITION", help="SQL over the columns of the captions.")
@click.option("--slot", help="Only the captions of this slot.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Sample otherwise: max_tokens=512.")
@DRY
@YES
@JSON
@click.pass_obj
def requeue(
    where: Where, condition: str, slot: str | None, settings: tuple[str, ...],
    *, dry_run: bool, yes: bool, in_json: bool,
) -> None:  # fmt: skip
    """Have captions written again: those that CONDITION holds for, of the newest ones of each image and slot.

    \b
    cfbus-admin requeue --where "finish_reason = 'length'" --set max_tokens=512
    cfbus-admin requeue --where "list_contains(flags, 'refused')" --slot long --dry-run

    A pass is opened over exactly these, and leased before anything else. The old captions count until the new ones are
    there."""
    arguments = given({"where": condition, "slot": slot})
    if settings:
        arguments["set"] = json.dumps(dict(map(_setting, settings)))
    act(where, "requeue", arguments, dry_run=dry_run, yes=yes, in_json=in_json)


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{logs.display(text, 60)} is not NAME=VALUE")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


@click.command("revoke-rows")
@click.option("--contributor", help="By name or id.")
@click.option("--key", help="By the fingerprint of the key, SHA256:…")
@click.option("--worker", help="By the name of the worker.")
@click.option("--since", help="Only what came since then: 24h, 2027-01-31.")
@DRY
@YES
@JSON
@click.pass_obj
def revoke_rows(
    where: Where, contributor: str | None, key: str | None, worker: str | None, since: str | None,
    *, dry_run: bool, yes: bool, in_json: bool,
) -> None:  # fmt: skip
    """Take out all rows of a contributor, key or worker up to now, and have their images captioned again.

    A tombstone is set, credits go back, and a pass is opened. `restore` undoes it, until `cfbus compact` has taken rows
    away. What the same contributor writes later counts. To keep them out: keys suspend, keys revoke."""
    arguments = given({"contributor": contributor, "key": key, "worker": worker})
    if since is not None:
        arguments["since"] = str(int((parse_date(moment(since, back=True)) or 0) * 1e6))
    act(where, "revoke-rows", arguments, dry_run=dry_run, yes=yes, in_json=in_json)


@click.command()
@click.option("--key", help="The item's key, as `item_key` has it.")
@click.option("--sha256", help="The SHA-256 of the image file, hexadecimal.")
@click.option("--shard", help="Only in this shard.")
@DRY
@YES
@JSON
@click.pass_obj
def takedown(
    where: Where, key: str | None, sha256: str | None, shard: str | None, *, dry_run: bool, yes: bool, in_json: bool
) -> None:  # fmt: skip
    """Take out all that was or will be written of an image. It is not captioned again.

    `restore` undoes it, until `cfbus compact` has taken rows away."""
    arguments = given({"key": key, "sha256": sha256, "shard": shard})
    act(where, "takedown", arguments, dry_run=dry_run, yes=yes, in_json=in_json)


@click.command()
@click.argument("tombstone", type=click.IntRange(1))
@JSON
@click.pass_obj
def restore(where: Where, tombstone: int, *, in_json: bool) -> None:
    """Remove a tombstone: its rows count again, and what was to be captioned for it is not any more."""
    _show(where, "restore", {"tombstone": str(tombstone)}, in_json)


@click.command("close-pass")
@click.argument("number", type=click.IntRange(1), metavar="PASS")
@JSON
@click.pass_obj
def close_pass(where: Where, number: int, *, in_json: bool) -> None:
    """End a redo as it is: what is done of it stays, the rest is not captioned again."""
    _show(where, "close-pass", {"pass": str(number)}, in_json)


@click.command()
@JSON
@click.pass_obj
def tombstones(where: Where, *, in_json: bool) -> None:
    """What was taken out, by whom, and whether it can be restored."""
    _show(where, "tombstones", {}, in_json)


@click.command()
@JSON
@click.pass_obj
def passes(where: Where, *, in_json: bool) -> None:
    """All passes: over what, how far, with what set otherwise."""
    (_show if where.offline else ask)(where, "passes", {}, in_json)


@click.command()
@click.argument("name", required=False, metavar="[TASK]")
@JSON
@click.pass_obj
def task(where: Where, name: str | None, *, in_json: bool) -> None:
    """What came of a task of the writer; without TASK, which there are."""
    ask(where, "task", {"task": name}, in_json)


def _show(where: Where, verb: str, arguments: Mapping[str, str], in_json: bool) -> None:
    def go() -> None:
        told = asked(where, verb, arguments)
        answer(as_json(told) if in_json else as_text(told))

    run(go)
