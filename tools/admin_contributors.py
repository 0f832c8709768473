"""`cfbus-admin contributors`: to whom captions are credited, apart from the keys that they use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from cfbus.tools.admin_asking import JSON, Where, ask
from cfbus.tools.main import Verbs

OPTIONS = (
    click.option("--trust", type=int, help="From 0 (stranger) to 5 (the maintainer)."),
    click.option("--contact", help="How to reach them, one line."),
    click.option("--note", help="For yourself, one line."),
)


def about(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags for what is known of a contributor."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group(cls=Verbs, subcommand_metavar="VERB [ARGS]...")
def command() -> None:
    """Contributors: list, add, set."""


@command.command("list")
@JSON
@click.pass_obj
def list_all(where: Where, in_json: bool) -> None:
    """All contributors, with trust, contact, note and number of keys."""
    ask(where, "contributors", {}, in_json)


@command.command()
@click.argument("name")
@about
@JSON
@click.pass_obj
def add(where: Where, name: str, trust: int | None, contact: str | None, note: str | None, in_json: bool) -> None:
    """Add a contributor. (`invite` and `keys add` do so too.)"""
    _tell(where, "add-contributor", name, trust, contact, note, in_json)


@command.command("set")
@click.argument("name")
@about
@JSON
@click.pass_obj
def change(where: Where, name: str, trust: int | None, contact: str | None, note: str | None, in_json: bool) -> None:
    """Change what is known of a contributor; what is not given stays."""
    _tell(where, "set-contributor", name, trust, contact, note, in_json)


def _tell(
    where: Where, verb: str, name: str, trust: int | None, contact: str | None, note: str | None, in_json: bool
) -> None:
    said = {"name": name, "trust": None if trust is None else str(trust), "contact": contact, "note": note}
    ask(where, verb, said, in_json)
