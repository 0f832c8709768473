"""`cfbus-admin health`: one question for scripts and monitors, answered by an exit code.

0: all is well, or only slow; 75: something keeps the run, or no broker answers; others as everywhere. What the alarms
mean is `cfbus.core.alarms`'s.
"""

from __future__ import annotations

import json

import click

from cfbus.core.alarms import alarms
from cfbus.core.snapshot import Status
from cfbus.errors import TryAgainError, UsageError
from cfbus.tools.admin_asking import JSON, Where, asker_of, run
from cfbus.tools.progress import line
from cfbus.tools.screen import answer


@click.command()
@JSON
@click.pass_obj
def health(where: Where, in_json: bool) -> None:
    """Whether the run goes on: exit code 0 if so, 75 with a line for each alarm if not."""

    def go() -> None:
        with asker_of(where) as asker:
            facts = dict(asker.ask("status", {}).facts)
        try:
            status = Status.model_validate(facts)
        except ValueError:
            raise UsageError("The broker is of another version; its status cannot be read.") from None
        found = alarms(status)
        if in_json:
            told = [{"alarm": each.name, "says": each.says, "serious": each.serious} for each in found]
            healthy = not any(each.serious for each in found)
            answer(json.dumps({"healthy": healthy, "alarms": told, "status": status.model_dump()}))
        else:
            answer("\n".join([line(status) or "nothing listed yet", *(f"{each.name}: {each.says}" for each in found)]))
        serious = [each.name for each in found if each.serious]
        if serious:
            raise TryAgainError(
                f"The run needs somebody: {', '.join(serious)}.", "docs/operations.md has an index of alarms."
            )

    run(go)
