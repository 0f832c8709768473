"""`cfbus-admin workers`, `leases`, `story`, `drain`, `undrain`, `reset`, `shutdown`: the run, looked at and steered.

What is asked is decided by the broker; here are words, flags and how answers look. Nothing acts before it has said how
much it will do: `reset` counts first, and asks a person who sits at a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

import click

from cfbus.errors import UsageError
from cfbus.store.registry_rows import date
from cfbus.tools.admin_amend import asked
from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, ask, asker_of, given, run
from cfbus.tools.asking import Told
from cfbus.tools.screen import answer


@click.command()
@JSON
@click.pass_obj
def workers(where: Where, in_json: bool) -> None:
    """All workers: what they do, how fast, when they were last heard."""
    ask(where, "workers", {}, in_json)


@click.command()
@click.option("--worker", help="Only those of this worker or contributor.")
@JSON
@click.pass_obj
def leases(where: Where, worker: str | None, in_json: bool) -> None:
    """The leases that run: of whom, how far, how long without progress."""
    ask(where, "leases", {"worker": worker}, in_json)


@click.command()
@click.argument("place", metavar="SHARD[:INDEX]")
@JSON
@click.pass_obj
def story(where: Where, place: str, in_json: bool) -> None:
    """Everything that happened to a shard, or to an item of it, since the broker started, in order.

    It says first since when it remembers: of a long run the oldest is forgotten."""

    def go() -> None:
        with asker_of(where) as asker:
            told = asker.ask("story", {"place": place})
        times = {name: _date(value) for name, value in told.facts if name in _TIMES}
        rows = tuple((_date(row[0]), *row[1:]) for row in told.rows)
        if in_json:
            facts = tuple((name, times.get(name, value)) for name, value in told.facts)
            answer(as_json(replace(told, facts=facts, rows=rows)))
        else:
            facts = tuple((name, value) for name, value in told.facts if name not in times)
            answer("\n".join([*_since(times), as_text(replace(told, facts=facts, rows=rows))]))

    run(go)


_TIMES = ("since", "started")


def _since(times: Mapping[str, str]) -> list[str]:
    """The line above a story; none from a broker that does not say."""
    if len(times) < len(_TIMES):
        return []
    if times["since"] == times["started"]:
        return [f"since the broker started at {times['started']}"]
    return [f"since {times['since']}; what was before is partly forgotten (the broker started at {times['started']})"]


def _date(microseconds: str) -> str:
    return date(int(microseconds) / 1e6) if microseconds.isdecimal() else microseconds


@click.command()
@click.argument("worker", required=False)
@JSON
@click.pass_obj
def drain(where: Where, worker: str | None, in_json: bool) -> None:
    """Have a worker, or all, finish what is in flight and take nothing new.

    Its process does not end, and keeps its engine: `undrain` has it work again at once."""
    ask(where, "drain", {"worker": worker}, in_json)


@click.command()
@click.argument("worker", required=False)
@JSON
@click.pass_obj
def undrain(where: Where, worker: str | None, in_json: bool) -> None:
    """Have a worker, or all, that were drained take work again; not those that are being stopped.

    Each answers for itself: `workers` shows it. One of an older release does not understand; start it again."""
    ask(where, "undrain", {"worker": worker}, in_json)


@click.command()
@click.argument("place", metavar="[SHARD[:START-END]]", required=False)
@click.option("--stale", is_flag=True, help="Leases without progress for a minute, or for --seconds.")
@click.option("--seconds", type=click.IntRange(1, 999_999), help="How long without progress is stale.")
@click.option("--contributor", help="All leases of this contributor.")
@click.option("--failed", is_flag=True, help="Dead letters, and what waits to be tried again.")
@click.option("--reason", help="Of the dead letters: with this reason.")
@click.option("--fault", type=click.Choice(["item", "worker", "network", "server"]), help="Of those: with this fault.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
@click.pass_obj
def reset(
    where: Where, place: str | None, *, stale: bool, seconds: int | None, contributor: str | None, failed: bool,
    reason: str | None, fault: str | None, dry_run: bool, yes: bool, in_json: bool,
) -> None:  # fmt: skip
    """Take leases back, so that others get what is not done of them; or have failed items tried again.

    Captions that are durable stay: `requeue` has them written again. Says how many it found before it does anything."""

    def go() -> None:
        if (seconds and not stale) or ((reason or fault) and not failed):
            raise UsageError("--seconds goes with --stale, --reason and --fault with --failed.")
        arguments = given(
            {
                "place": place,
                "stale": str(seconds or 60) if stale else None,
                "contributor": contributor,
                "failed": "yes" if failed else None,
                "fault": fault,
            }
        )
        if failed:
            _reset_failed(where, arguments, given({"reason": reason, "fault": fault}), dry_run, yes, in_json)
            return
        with asker_of(where) as asker:
            counted = asker.ask("reset", {**arguments, "dry-run": "yes"})
            told = counted if dry_run else None
            if told is None and _sure(dict(counted.facts), yes=yes):
                told = asker.ask("reset", arguments)
        if told is None:
            raise UsageError("Nothing was reset.", "Say yes when asked, or --yes.")
        answer(as_json(told) if in_json else as_text(told))

    run(go)


def _reset_failed(
    where: Where, waiting: dict[str, str], letters: dict[str, str], dry_run: bool, yes: bool, in_json: bool
) -> None:  # fmt: skip
    """Of items that wait the attempts are forgotten, by the broker; dead letters are reopened, by the writer."""
    dry = {"dry-run": "yes"}
    dead = _reopened(where, {**letters, **dry})
    if where.offline:  # what waits is known to a broker that runs, and to nobody else
        told = dead if dry_run else _reopened(where, letters)
        answer(as_json(told) if in_json else as_text(told))
        return
    with asker_of(where) as asker:
        counted = asker.ask("reset", {**waiting, **dry})
        facts = (("waiting", dict(counted.facts)["items"]), ("dead_letters", dict(dead.facts).get("dead_letters", "0")))
        if not dry_run and not _sure(dict(facts), yes=yes):
            raise UsageError("Nothing was reset.", "Say yes when asked, or --yes.")
        if not dry_run:
            asker.ask("reset", waiting)
    made = _reopened(where, letters).facts if not dry_run and dict(facts)["dead_letters"] != "0" else ()
    told = Told((*facts, *((name, value) for name, value in made if name in ("passes", "tombstone"))))
    answer(as_json(told) if in_json else as_text(told))


def _reopened(where: Where, arguments: dict[str, str]) -> Told:
    try:
        return asked(where, "reopen", arguments)
    except UsageError:
        if "dry-run" not in arguments:
            raise
        return Told()  # there are none


def _sure(facts: dict[str, str], *, yes: bool) -> bool:
    """Scripts mean what they say; a person is asked."""
    if yes or not sys.stdin.isatty():
        return True
    counts = ", ".join(
        f"{facts[name]} {name}" for name in ("leases", "items", "waiting", "dead_letters") if name in facts
    )
    return click.confirm(f"Reset {counts}?", err=True)


@click.command()
@click.option("--when-done", is_flag=True, help="When all is captioned and sealed; until then all goes on.")
@JSON
@click.pass_obj
def shutdown(where: Where, when_done: bool, in_json: bool) -> None:
    """End the broker when nothing is leased any more: workers are drained first.

    Under systemd stop the unit afterwards, or it is started again."""
    ask(where, "shutdown", {"when-done": "yes" if when_done else None}, in_json)
