"""`cfbus-admin reload` and `config`: the broker's configuration, shown, compared with its file, and read again.

The broker's file is on the broker's host: it is read there. Must not know what a change means.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

import click

from cfbus import logs
from cfbus.errors import TryAgainError
from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, ask, asker_of, run
from cfbus.tools.asking import Asker, Told
from cfbus.tools.main import Verbs
from cfbus.tools.screen import answer

WAIT_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.25
ASKED: Final = "asked"


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--wait", type=click.FloatRange(0, 600), default=WAIT_SECONDS, show_default=True, help="For answers (s).")
@JSON
@click.pass_obj
def reload(where: Where, dry_run: bool, wait: float, in_json: bool) -> None:
    """Have the broker read its file again: what changes, by class, and what each worker says to it.

    A file with anything wrong in it, or with a change that needs a restart, changes nothing."""
    if dry_run:
        ask(where, "config-diff", {}, in_json)

    def go() -> None:
        with asker_of(where) as asker:
            changed = asker.ask("reload", {})
            answers, waiting = _answers(asker, wait)
        _show(changed, answers, in_json)
        if waiting:
            raise TryAgainError(
                f"{waiting} workers have not answered within {wait:g} s; they are told again.",
                "`cfbus-admin config answers` shows what they say later.",
            )

    run(go)


def _answers(asker: Asker, wait: float) -> tuple[Told, int]:
    """What the workers say, as soon as all have spoken or the time is over; and how many have not."""
    deadline = time.monotonic() + wait
    while True:
        told = asker.ask("answers", {})
        waiting = sum(row[2] == ASKED for row in told.rows)
        if not waiting or time.monotonic() >= deadline:
            return told, waiting
        time.sleep(LOOK_SECONDS)


def _show(changed: Told, answers: Told, in_json: bool) -> None:
    if in_json:
        whole: dict[str, Any] = {"changed": _objects(changed), "workers": _objects(answers), **dict(answers.facts)}
        answer(json.dumps(whole))
        return
    parts = [as_text(Told((), changed.columns, changed.rows)) if changed.rows else "Nothing differs."]
    parts += [logs.display(f"generation: {dict(changed.facts).get('generation', '?')}")]
    parts += [as_text(Told((), answers.columns, answers.rows))] if answers.rows else ["no workers are connected"]
    answer("\n".join(parts))


def _objects(told: Told) -> list[dict[str, str]]:
    return [dict(zip(told.columns, row, strict=False)) for row in told.rows]


@click.group(cls=Verbs, subcommand_metavar="VERB [ARGS]...")
def command() -> None:
    """The broker's configuration: show, diff, answers."""


@command.command()
@JSON
@click.pass_obj
def show(where: Where, in_json: bool) -> None:
    """What the broker goes by, each key with its value."""
    ask(where, "config-show", {}, in_json)


@command.command()
@JSON
@click.pass_obj
def diff(where: Where, in_json: bool) -> None:
    """What `reload` would change, by class."""
    ask(where, "config-diff", {}, in_json)


@command.command()
@JSON
@click.pass_obj
def answers(where: Where, in_json: bool) -> None:
    """What each worker says to the configuration that holds."""

    def go() -> None:
        with asker_of(where) as asker:
            told = asker.ask("answers", {})
        answer(as_json(told) if in_json else as_text(told))

    run(go)
