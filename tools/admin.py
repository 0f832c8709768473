"""`cfbus-admin`: asks the broker to do something, with an admin key; about keys also on its host, while it is away.

One question, one answer; what is asked is decided by the broker. What the broker says is shown with whatever is hostile
in it made visible. The verbs about keys, invites, contributors and the audit log have modules of their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from cfbus import __version__, logs
from cfbus.core.snapshot import Status
from cfbus.errors import EXIT_DONE
from cfbus.runtime import last_frame
from cfbus.tools import (
    admin_amend,
    admin_audit,
    admin_config,
    admin_contributors,
    admin_health,
    admin_invites,
    admin_keys,
    admin_run,
    admin_store,
    progress,
)
from cfbus.tools.admin_asking import JSON, Where, asker_of
from cfbus.tools.asking import Facts
from cfbus.tools.main import Verbs, begin
from cfbus.tools.screen import answer


def as_status(facts: Facts) -> Status | None:
    """The facts of `status` with their types; None from a broker of another version."""
    try:
        return Status.model_validate(dict(facts))
    except ValidationError:
        return None


def as_json(facts: Facts) -> str:
    """One line for scripts: numbers as numbers, truth values as such."""
    known = as_status(facts)
    if known is not None:
        return known.model_dump_json()
    return json.dumps({name: {"yes": True, "no": False}.get(value, value) for name, value in facts})


def as_text(facts: Facts) -> str:
    """Some lines for a person."""
    known = as_status(facts)
    rows = [(name.replace("_", " "), value) for name, value in facts]
    if known is not None:
        starved = f", {known.workers_starved:,} of them starved" if known.workers_starved else ""
        rows = [
            ("dataset", known.dataset),
            ("progress", progress.line(known) or "nothing listed yet"),
            ("captions", f"{known.captions:,}"),
            ("dead letters", f"{known.dead_letters:,}"),
            ("workers", f"{known.workers:,}{starved}"),
            ("writer", known.writer),
            *([("problem", known.problem)] if known.problem else []),
        ]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {logs.display(value, 300)}" for name, value in rows)


@click.group(cls=Verbs, subcommand_metavar="VERB [ARGS]...", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cfbus")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
@click.option("--offline", is_flag=True, help="No broker runs: work on the registry, or the store, itself.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="No broker runs: work on the registry in this folder."
)
@click.pass_context
def command(
    context: click.Context, config_file: Path | None, overrides: tuple[str, ...], offline: bool, data_dir: Path | None
) -> None:
    """Ask the broker: how it goes, who may come in. Needs an admin key."""
    logs.setup("admin", "error")
    context.obj = Where(config_file, overrides, offline, data_dir)


def _ask(where: Where, verb: str, in_json: bool) -> None:
    def go() -> int:
        with asker_of(where) as asker:
            facts = asker.ask(verb, {}).facts
        answer(as_json(facts) if in_json else as_text(facts))
        return EXIT_DONE

    sys.exit(last_frame(go))


@command.command()
@JSON
@click.pass_obj
def status(where: Where, in_json: bool) -> None:
    """How far the run is, and what keeps it."""
    _ask(where, "status", in_json)


@command.command()
@JSON
@click.pass_obj
def pause(where: Where, in_json: bool) -> None:
    """Grant nothing new; what is leased goes on."""
    _ask(where, "pause", in_json)


@command.command()
@JSON
@click.pass_obj
def resume(where: Where, in_json: bool) -> None:
    """Grant again."""
    _ask(where, "resume", in_json)


command.add_command(admin_invites.invite, "invite")
command.add_command(admin_invites.command, "invites")
command.add_command(admin_keys.command, "keys")
command.add_command(admin_contributors.command, "contributors")
command.add_command(admin_audit.command, "audit")
command.add_command(admin_config.reload, "reload")
for _verb in (
    *(admin_health.health, admin_run.workers, admin_run.leases, admin_run.story),
    *(admin_run.drain, admin_run.undrain, admin_run.reset, admin_run.shutdown),
    *(admin_store.dead_letters, admin_store.scan, admin_store.rebuild_ledger),
    *(admin_amend.requeue, admin_amend.revoke_rows, admin_amend.takedown, admin_amend.restore),
    *(admin_amend.passes, admin_amend.close_pass, admin_amend.tombstones, admin_amend.task),
):
    command.add_command(_verb)
command.add_command(admin_config.command, "config")


def main() -> None:
    """Entry point."""
    begin(command)


if __name__ == "__main__":
    main()
