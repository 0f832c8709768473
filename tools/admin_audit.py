"""`cfbus-admin audit`: who did what to keys, contributors and the run. The log only grows."""

from __future__ import annotations

from collections.abc import Iterator

import click

from cfbus.tools.admin_asking import JSON, Where, as_json, as_text, asker_of, moment, run
from cfbus.tools.asking import Asker, Told
from cfbus.tools.screen import answer


@click.command()
@click.option("--since", help="Only lines from then on: 24h, 7d, 2027-01-31.")
@JSON
@click.pass_obj
def command(where: Where, since: str | None, in_json: bool) -> None:
    """The audit log, oldest first: each call of an admin, each key that came in."""

    def go() -> None:
        begin = {} if since is None else {"since": moment(since, back=True)}
        with asker_of(where) as asker:
            parts = list(_parts(asker, begin))
        told = Told((), parts[0].columns, tuple(row for part in parts for row in part.rows))
        answer(as_json(told) if in_json else as_text(told))

    run(go)


def _parts(asker: Asker, begin: dict[str, str]) -> Iterator[Told]:
    """The log in parts, each after the last line of the one before; it may grow meanwhile, by our own asking too."""
    part = asker.ask("audit", begin)
    yield part
    last = 0
    while part.rows and int(part.rows[-1][0]) > last:
        last = int(part.rows[-1][0])
        part = asker.ask("audit", {**begin, "after": str(last)})
        if len(part.rows) < 2:  # no more than the line about this very question
            yield part
            return
        yield part
