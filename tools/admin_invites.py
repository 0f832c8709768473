"""`cfbus-admin invite` and `invites`: a contributor's way in, as one line.

The invite's key is made here, and only its public half goes to the broker; the line with the secret is printed once and
kept nowhere.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import click

from cfbus import logs, runtime
from cfbus.bus import keys
from cfbus.bus.invite_line import Facts, Invite, invite_line
from cfbus.bus.messages import Role
from cfbus.config import Config
from cfbus.errors import UsageError
from cfbus.store.invites import ROLES
from cfbus.store.registry_text import parse_date
from cfbus.tools.admin_asking import JSON, Where, ask, asker_of, moment, run
from cfbus.tools.main import Verbs
from cfbus.tools.screen import answer

_LOOPBACK = re.compile(r"tcp://(127\.|localhost[:]|\[::1\])")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the invite is to be."""

    name: str
    role: Role
    expires: str
    uses: int
    approve: bool
    trust: int | None


def facts_of(settings: Config, project: str, role: Role, endpoint: str | None, stats: str | None) -> Facts:
    """What a newcomer has to know of the bus, as this admin reaches it or as was said."""
    server = runtime.server_key(settings.admin.server_key, "admin")
    address = endpoint or settings.admin.server
    if _LOOPBACK.match(address):
        click.echo(
            f"{address} is reached on this machine only; say where others reach the broker: --endpoint tcp://HOST:PORT",
            err=True,
        )
    return Facts(address, server, project, role, (stats or settings.admin.stats) if role is Role.MONITOR else "")


def make(where: Where, wish: Wish, endpoint: str | None, stats: str | None) -> str:
    """The line of a new invite that the broker knows."""
    pair = keys.generate()
    logs.register_secret(pair.secret.decode())
    expires = parse_date(moment(wish.expires))
    if expires is None:
        raise UsageError("An invite must end at some time.")
    with asker_of(where) as asker:
        facts = facts_of(where.settings(), asker.project, wish.role, endpoint, stats)
        arguments = {
            "public": pair.public.decode("ascii"),
            "contributor": keys.check_name(wish.name),
            "role": wish.role.value,
            "expires": moment(wish.expires),
            "uses": str(wish.uses),
            "approve": "yes" if wish.approve else "no",
            **({} if wish.trust is None else {"trust": str(wish.trust)}),
        }
        asker.ask("invite", arguments)
    return invite_line(Invite(facts, int(expires), pair))


@click.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in ROLES]), default="worker", show_default=True,
              help="What the new key may do.")  # fmt: skip
@click.option("--expires", default="24h", show_default=True, help="Until when it can be used: 24h, 7d, 2027-01-31.")
@click.option("--uses", type=int, default=1, show_default=True, help="How many keys can be enrolled by it.")
@click.option("--approve", is_flag=True, help="New keys wait until `cfbus-admin keys approve`.")
@click.option("--trust", type=int, help="From 0 (stranger) to 5, if the contributor is new; by default 1.")
@click.option("--endpoint", metavar="TCP", help="Where contributors reach the broker; by default admin.server.")
@click.option("--stats", metavar="TCP", help="Where monitors reach the statistics; by default admin.stats.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the line to this new file, yours alone (0600).")
@click.pass_obj
def invite(
    where: Where,
    name: str,
    role: str,
    expires: str,
    uses: int,
    approve: bool,
    trust: int | None,
    endpoint: str | None,
    stats: str | None,
    out: Path | None,
) -> None:
    """Invite the contributor NAME: one line, a secret, for `cfbus join`."""

    def go() -> None:
        if out is not None and (out.exists() or not out.absolute().parent.is_dir()):
            raise UsageError(f"{out} cannot be made: it is there already, or its folder is not.", "Name a new file.")
        line = make(where, Wish(name, Role(role), expires, uses, approve, trust), endpoint, stats)
        if out is None:
            answer(line)
        else:
            _write(out, line)
            answer(f"Wrote the invite to {out}. Whoever has it can use it; hand it over in private.")

    run(go)


def _write(path: Path, line: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(line + "\n")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}.", "Revoke the invite, and make another."
        ) from None


@click.group(cls=Verbs, subcommand_metavar="VERB [ARGS]...")
def command() -> None:
    """Invites that were made: list, revoke."""


@command.command("list")
@JSON
@click.pass_obj
def list_all(where: Where, in_json: bool) -> None:
    """All invites, and how often each was used."""
    ask(where, "invites", {}, in_json)


@command.command()
@click.argument("invite_mark", metavar="INVITE")
@JSON
@click.pass_obj
def revoke(where: Where, invite_mark: str, in_json: bool) -> None:
    """Nobody comes in by INVITE (a fingerprint or its beginning) any more; keys that did stay."""
    ask(where, "revoke-invite", {"invite": invite_mark}, in_json)
