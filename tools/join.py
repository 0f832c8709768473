"""`cfbus join`: a newcomer's one command, from an invite (or a key that was added by hand) to a daemon to be started.

Asks, shows, and says what to do next; the steps are in ``joining``. The invite is a secret: it is read without echo,
never shown, never logged.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from cfbus import logs
from cfbus.bus import keys
from cfbus.bus.invite_line import LINE_LIMIT, Facts, Invite, parse_invite, parse_join
from cfbus.bus.keys import KeyPair, fingerprint
from cfbus.config_sections import host_name
from cfbus.errors import EXIT_DONE, UsageError
from cfbus.runtime import last_frame
from cfbus.store.registry_rows import date
from cfbus.tools import joining
from cfbus.tools.screen import answer


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    line: str | None
    file: Path | None
    key: Path | None
    folder: Path
    name: str
    yes: bool
    overrides: tuple[str, ...]


def join(wish: Wish) -> int:
    """From the line to the configuration; returns the exit code."""
    if (wish.file is None) != (wish.key is None):
        raise UsageError("--file and --key belong together.", "cfbus join --file JOIN-FILE --key YOUR.key_secret")
    if wish.file is not None and wish.key is not None:
        return _by_file(wish, parse_join(_text(wish.file)), wish.key)
    text, asked = _invite_text(wish.line)
    return _by_invite(wish, parse_invite(text), asked)


def _by_invite(wish: Wish, invite: Invite, asked: bool) -> int:
    facts = invite.facts
    logs.register_secret(invite.pair.secret.decode())
    _ready(wish, facts)
    _show(facts, date(invite.expires))
    _consent(wish, asked)
    pair, path = joining.own_key(wish.folder, facts.role, wish.name)
    answer(f"Your own key: {path} ({fingerprint(pair.public)}). It stays on this host.")
    enrolled = joining.enrol(invite, pair.public, wish.name)
    warning = joining.clock_warning(enrolled.now)
    if warning:
        click.echo(warning, err=True)
    ends = "never" if not enrolled.key_expires else date(enrolled.key_expires / 1e6)
    answer(f"The broker knows it now, as a {facts.role}'s; it ends: {ends}.")
    engine = joining.Engine(enrolled.engine, enrolled.model)
    if enrolled.state == "pending":
        answer("It waits for the maintainer's approval; what you start waits with it. Tell the maintainer:")
        answer(f"  cfbus-admin keys approve {fingerprint(pair.public)}")
    else:
        joining.try_out(facts, pair, wish.name)
        answer("Tried it out: the broker lets this host in.")
    _finish(wish, facts, path, engine)
    return EXIT_DONE


def _by_file(wish: Wish, facts: Facts, key_file: Path) -> int:
    pair: KeyPair = keys.load(key_file)
    logs.register_secret(pair.secret.decode())
    _ready(wish, facts)
    _show(facts, "")
    _consent(wish, asked=True)
    welcome = joining.try_out(facts, pair, wish.name)
    answer(f"Tried {key_file}: the broker lets it in.")
    _finish(wish, facts, key_file.absolute(), joining.engine_of(welcome))
    return EXIT_DONE


def _ready(wish: Wish, facts: Facts) -> None:
    """What would fail at the end fails now, before an invite is used."""
    joining.config_path(wish.folder, facts.role)
    joining.check_overrides(wish.folder, facts, wish.overrides)
    keys.check_name(wish.name)


def _show(facts: Facts, expires: str) -> None:
    rows = [("project", facts.project), ("broker", facts.endpoint), ("its key", fingerprint(facts.server))]
    rows += [("you would be a", facts.role.value), *([("invite ends", expires)] if expires else [])]
    for name, value in rows:
        answer(f"{name:<14}  {logs.display(value, 200)}")


def _consent(wish: Wish, asked: bool) -> None:
    if wish.yes:
        return
    if not asked or not sys.stdin.isatty():
        raise UsageError("Nobody can be asked whether to go on.", "Compare what is shown above, then add --yes.")
    if not click.confirm("Is that what you were told? Go on?"):
        raise UsageError("Nothing was done.")


def _finish(wish: Wish, facts: Facts, key_file: Path, engine: joining.Engine) -> None:
    path = joining.write_config(wish.folder, facts, key_file, engine, wish.overrides)
    answer(f"Wrote {path}.")
    if engine.name:
        model = f", model {logs.display(engine.model, 200)}" if engine.model else ""
        answer(f"This bus captions with the engine {logs.display(engine.name, 40)}{model}.")
        if engine.name == "vllm":
            answer('It needs a GPU and `pip install "cfbus[vllm]"`; check vllm.model in the configuration.')
    answer(f"Start:\n  {joining.PLACES[facts.role].start} --config {path}")


def _invite_text(line: str | None) -> tuple[str, bool]:
    """The invite, and whether the terminal is still free to ask on."""
    if line is None and sys.stdin.isatty():
        return getpass.getpass("Invite (it is not shown): "), True
    if line in (None, "-"):
        return sys.stdin.read(LINE_LIMIT + 1), False
    assert line is not None
    if line.startswith("@"):
        return _text(Path(line[1:]), secret=True), True
    click.echo(
        "An invite on the command line can be seen by other users of this machine, and stays in the shell's history."
        " Better: cfbus join, or cfbus join @FILE.",
        err=True,
    )
    return line, True


def _text(path: Path, *, secret: bool = False) -> str:
    try:
        with path.open("rb") as file:
            data, mode = file.read(LINE_LIMIT * 4), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if secret and stat.S_IMODE(mode) & 0o077:
        click.echo(f"Others may read {path}: chmod 600 it, or remove it when you have joined.", err=True)
    return data.decode("utf-8", "replace")


@click.command()
@click.argument("line", required=False)
@click.option("--file", type=click.Path(path_type=Path), help="A join file, for a key that was added by hand.")
@click.option("--key", type=click.Path(path_type=Path), help="That key: a .key_secret of `cfbus keygen`.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    help="Where key and configuration go; by default ~/.cfbus, where the daemons look.",
)
@click.option("--name", help="What this host's key is called; by default the name of the machine.")
@click.option("--yes", is_flag=True, help="Do not ask whether to go on.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
def command(
    line: str | None,
    file: Path | None,
    key: Path | None,
    folder: Path | None,
    name: str | None,
    yes: bool,
    overrides: tuple[str, ...],
) -> None:
    """Join a bus with an invite: asked for without echo, or from stdin (-) or a file (@FILE)."""

    def go() -> int:
        logs.setup("join", "error")
        place = (folder or Path.home() / ".cfbus").absolute()
        return join(Wish(line, file, key, place, name or host_name(), yes, overrides))

    sys.exit(last_frame(go))
