"""`cfbus-admin keys`: who may come in, until when, and why not any more."""

from __future__ import annotations

from pathlib import Path

import click

from cfbus import logs
from cfbus.bus.invite_line import join_line
from cfbus.bus.messages import Role
from cfbus.errors import UsageError
from cfbus.store.durable import disk_errors, new_file, publish
from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, ask, asker_of, given, moment, run
from cfbus.tools.admin_invites import facts_of
from cfbus.tools.main import Verbs
from cfbus.tools.screen import answer

KEY = click.argument("key")
REASON = click.option("--reason", help="Why; it is shown with the key.")
ROLES = [role.value for role in Role if role is not Role.ENROL]
MAX_IMPORT_BYTES = 64 << 20


@click.group(cls=Verbs, subcommand_metavar="VERB [ARGS]...")
def command() -> None:
    """Keys: list, show, add, approve, suspend, resume, revoke, expire, export, import.

    KEY is a fingerprint, its beginning, a public line, or a name that only one key has.
    """


@command.command("list")
@JSON
@click.pass_obj
def list_all(where: Where, in_json: bool) -> None:
    """All keys with role, state, owner and end; those that end within 14 days are marked."""
    ask(where, "keys", {}, in_json)


@command.command()
@KEY
@JSON
@click.pass_obj
def show(where: Where, key: str, in_json: bool) -> None:
    """All that is known of KEY."""
    ask(where, "key", {"key": key}, in_json)


@command.command()
@click.argument("line")
@click.option("--role", type=click.Choice(ROLES), default="worker", show_default=True, help="What the key may do.")
@click.option("--contributor", help="Who is credited; by default the name in the line.")
@click.option("--trust", type=int, help="From 0 (stranger) to 5, if the contributor is new; by default 1.")
@click.option("--expires", help="90d, 2027-01-31, never; by default broker.key_days from now.")
@click.option("--endpoint", metavar="TCP", help="Where contributors reach the broker; by default admin.server.")
@click.option("--stats", metavar="TCP", help="Where monitors reach the statistics; by default admin.stats.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the join file here instead of showing its line.")
@JSON
@click.pass_obj
def add(
    where: Where,
    line: str,
    role: str,
    contributor: str | None,
    trust: int | None,
    expires: str | None,
    endpoint: str | None,
    stats: str | None,
    out: Path | None,
    in_json: bool,
) -> None:
    """Add the key of a public LINE (cfbus-key1 …); prints what its owner gives to `cfbus join --file`."""

    def go() -> None:
        arguments = {
            "line": line.strip(),
            "role": role,
            "contributor": contributor,
            "trust": None if trust is None else str(trust),
            "expires": None if expires is None else moment(expires),
        }
        with asker_of(where) as asker:
            told = asker.ask("add-key", given(arguments))
            word = join_line(facts_of(where.settings(), asker.project, Role(role), endpoint, stats))
        answer(as_json(told) if in_json else as_text(told))
        if out is not None:
            _write(out, f"# For: cfbus join --file THIS --key YOUR.key_secret. Nothing in it is secret.\n{word}\n")
            answer(f"Wrote the join file {out}: for the key's owner, who needs `cfbus join --file`.")
        elif not in_json:
            answer(f"The join file, one line, for the key's owner (nothing in it is secret):\n{word}")

    run(go)


def _write(path: Path, text: str) -> None:
    with disk_errors(path):
        if path.exists():
            raise UsageError(f"{path} exists already and is not overwritten.", "Name a new file.")
    beside = path.with_name(path.name + ".new")
    with new_file(beside) as file:
        file.write(text.encode())
    publish(beside, path)


@command.command()
@KEY
@JSON
@click.pass_obj
def approve(where: Where, key: str, in_json: bool) -> None:
    """Let in KEY, which waits for that."""
    ask(where, "approve-key", {"key": key}, in_json)


@command.command()
@KEY
@REASON
@JSON
@click.pass_obj
def suspend(where: Where, key: str, reason: str | None, in_json: bool) -> None:
    """Put KEY out until it is resumed; its connections are cut, its leases returned, its daemon waits."""
    ask(where, "suspend-key", {"key": key, "reason": reason}, in_json)


@command.command()
@KEY
@JSON
@click.pass_obj
def resume(where: Where, key: str, in_json: bool) -> None:
    """Let in KEY again, which was suspended."""
    ask(where, "resume-key", {"key": key}, in_json)


@command.command()
@KEY
@REASON
@JSON
@click.pass_obj
def revoke(where: Where, key: str, reason: str | None, in_json: bool) -> None:
    """Put KEY out for good; its connections are cut, its leases returned, its daemon ends."""
    ask(where, "revoke-key", {"key": key, "reason": reason}, in_json)


@command.command()
@KEY
@click.argument("when")
@JSON
@click.pass_obj
def expire(where: Where, key: str, when: str, in_json: bool) -> None:
    """Let KEY end at another time: 90d, 2027-01-31, now, never."""

    def go() -> None:
        with asker_of(where) as asker:
            told = asker.ask("expire-key", {"key": key, "when": when if when == "now" else moment(when)})
        answer(as_json(told) if in_json else as_text(told))

    run(go)


@command.command("export")
@click.option("--out", type=click.Path(path_type=Path), help="Write to this file (an older one is replaced).")
@click.pass_obj
def export(where: Where, out: Path | None) -> None:
    """All keys, a line each, sorted, without secrets: for a repository."""

    def go() -> None:
        with asker_of(where) as asker:
            rows = asker.ask("export-keys", {}).rows
        text = "".join(f"{row[0]}\n" for row in rows if row)
        if out is None:
            answer("".join(f"{logs.display(line, 1024)}\n" for line in text.splitlines()).rstrip("\n"))
            return
        beside = out.with_name(out.name + ".new")
        with new_file(beside) as file:
            file.write(text.encode())
        publish(beside, out)

    run(go)


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def import_file(where: Where, file: Path) -> None:
    """Bring the registry to what FILE (of `export`) says of the keys in it; others stay as they are."""

    def go() -> None:
        lines = _lines(file)
        with asker_of(where) as asker:
            for number, line in lines:
                try:
                    (row,) = asker.ask("import-key", {"line": line}).rows
                except UsageError as error:
                    raise UsageError(
                        f"{file}:{number}: {error.message}", error.hint or "Lines before it are done."
                    ) from None
                answer("  ".join(logs.display(cell, 100) for cell in row))

    run(go)


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_IMPORT_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {getattr(error, 'strerror', 'it is no text')}.") from None
    numbered = enumerate((line.strip() for line in data.splitlines()), 1)
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]
