"""`cfbus-admin`: asks the broker to do something, with an admin key.

One connection, one question, one answer; what is asked is decided by the broker. What the broker says is shown with
whatever is hostile in it made visible.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TypeAlias

import click
import zmq
from pydantic import ValidationError

from cfbus import __version__, config, logs, runtime
from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.core.snapshot import Status
from cfbus.errors import EXIT_DONE, KeyRefusedError, TryAgainError, UsageError
from cfbus.runtime import last_frame
from cfbus.tools import progress
from cfbus.tools.main import Verbs, begin
from cfbus.tools.screen import answer

TIMEOUT_SECONDS = 15.0

Facts: TypeAlias = tuple[tuple[str, str], ...]


class Call:
    """One ADMIN request and its REPLY, over a connection of its own."""

    def __init__(self, settings: config.Config, verb: str) -> None:
        pair = keys.load(settings.admin.key_file)
        public = runtime.server_key(settings.admin.server_key, "admin")
        self._endpoint = settings.admin.server
        self._request = m.Admin(request=runtime.new_id(), verb=verb)
        self._reply: m.Reply | None = None
        self._refusal: m.Error | None = None
        self._loop = runtime.Loop()
        self._context: sockets.Context = zmq.Context()
        self._link = runtime.Link(
            self._loop, self._context, pair, public, self._endpoint, self._connected, self._received
        )

    def _connected(self) -> None:
        hello = m.Hello(role=m.Role.ADMIN, instance=runtime.new_id(), software="cfbus", name="cfbus-admin")
        self._link.send(hello)
        self._link.send(self._request)

    def _received(self, message: m.Message, _payload: bytes) -> None:
        if isinstance(message, m.Reply) and message.request == self._request.request:
            self._reply = message
        elif isinstance(message, m.Error):
            self._refusal = self._refusal or message

    def answer(self) -> m.Reply:
        """Wait for the broker. Raises ``TryAgainError`` when it does not answer, ``KeyRefusedError`` when it does not
        listen to this key, ``UsageError`` when it cannot do what was asked."""
        deadline = time.monotonic() + TIMEOUT_SECONDS

        def turn(at: float) -> float:
            if self._reply or self._refusal or time.monotonic() >= deadline:
                self._loop.stop(EXIT_DONE)
            return min(self._link.tick(at), at + 0.5)

        try:
            self._loop.run(turn)
        finally:
            self._link.close()
            self._context.term()
        if self._refusal is not None:
            raise KeyRefusedError(
                f"The broker at {self._endpoint} refuses: {logs.display(self._refusal.sentence, 300)}",
                "Ask with a key that is an admin's: admin.key_file.",
            )
        if self._reply is None:
            raise TryAgainError(
                f"No broker answered at {self._endpoint} within {TIMEOUT_SECONDS:.0f} s.",
                "Is it running, and is admin.server its address?",
            )
        if self._reply.problem:
            raise UsageError(logs.display(self._reply.problem, 300))
        return self._reply


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
@click.pass_context
def command(context: click.Context, config_file: Path | None, overrides: tuple[str, ...]) -> None:
    """Ask the broker: how it goes, to pause, to resume. Needs an admin key."""
    logs.setup("admin", "error")
    context.obj = (config_file, overrides)


def _ask(context: click.Context, verb: str, in_json: bool) -> None:
    config_file, overrides = context.obj

    def go() -> int:
        settings = config.load("admin", config_file, overrides, os.environ).config
        facts = Call(settings, verb).answer().facts
        answer(as_json(facts) if in_json else as_text(facts))
        return EXIT_DONE

    sys.exit(last_frame(go))


@command.command()
@click.option("--json", "in_json", is_flag=True, help="One line of JSON, for scripts.")
@click.pass_context
def status(context: click.Context, in_json: bool) -> None:
    """How far the run is, and what keeps it."""
    _ask(context, "status", in_json)


@command.command()
@click.option("--json", "in_json", is_flag=True, help="One line of JSON, for scripts.")
@click.pass_context
def pause(context: click.Context, in_json: bool) -> None:
    """Grant nothing new; what is leased goes on."""
    _ask(context, "pause", in_json)


@command.command()
@click.option("--json", "in_json", is_flag=True, help="One line of JSON, for scripts.")
@click.pass_context
def resume(context: click.Context, in_json: bool) -> None:
    """Grant again."""
    _ask(context, "resume", in_json)


def main() -> None:
    """Entry point."""
    begin(command)


if __name__ == "__main__":
    main()
