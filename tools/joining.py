"""The steps of joining a bus: a key of one's own, let in by an invite, tried out, and written into a configuration.

Knows one newcomer's host and the bus that it was told of; must not know the command line. What the broker says is text
from outside. Nothing on this host is opened or run because a broker says so: a model's name goes into the configuration
only if it looks like one of the hub's.

Invariants: the secret half of the key never leaves this host; nothing that is there is overwritten; each step can be
done again after it was cut off.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq

from cfbus import config, logs
from cfbus.bus import connections, keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.following import Connection
from cfbus.bus.invite_line import Facts, Invite
from cfbus.bus.keys import KeyPair
from cfbus.bus.messages import Role
from cfbus.config_captions import ENGINES
from cfbus.config_overlay import Option
from cfbus.errors import (
    CfbusError,
    ClockError,
    ExpiredInviteError,
    KeyRefusedError,
    OtherProjectError,
    TryAgainError,
    UnreachableError,
    UsageError,
    UsedInviteError,
    WrongServerError,
)
from cfbus.link import refusal
from cfbus.store.durable import disk_errors, make_dir, new_file, publish
from cfbus.tools import asking
from cfbus.tools.asking import Conversation

CLOCK_SECONDS: Final = 300.0
LOOK_MS: Final = 200
NO_FILE: Final = Path(os.devnull)
_MODEL: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_REFUSALS: Final[dict[str, tuple[type[CfbusError], str]]] = {
    "expired": (ExpiredInviteError, "Ask the maintainer for a new invite."),
    "used-up": (UsedInviteError, "If that was not you, tell the maintainer now; else ask for a new invite."),
    "other-project": (OtherProjectError, "Ask the maintainer which bus is meant."),
    "clock": (ClockError, "Tell the maintainer to set the clock of the broker's host; then try again."),
    "try-again": (TryAgainError, "Try again in some minutes."),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What a role's daemon is called, where its settings are, and what of the configuration is for it."""

    component: str
    section: str
    sections: tuple[str, ...]
    start: str


@dataclass(frozen=True, slots=True)
class Engine:
    """What the bus captions with, as its broker says."""

    name: str = ""
    model: str = ""


def engine_of(welcome: m.Welcome | None) -> Engine:
    """As a worker is told it; nothing for others."""
    if welcome is None or welcome.spec is None:
        return Engine()
    model = welcome.spec.model
    return Engine(welcome.spec.engine, model.name if model is not None else "")


PLACES: Final = {
    Role.WORKER: Place("gpu", "worker", ("dataset", "captions", "vllm", "worker"), "cfbus-gpu"),
    Role.FEEDER: Place("feeder", "feeder", ("dataset", "feeder"), "cfbus-feeder"),
    Role.MONITOR: Place("top", "admin", ("admin",), "cfbus-top"),
    Role.WRITER: Place("writer", "writer", ("dataset", "storage", "writer"), "cfbus-writer"),
    Role.ADMIN: Place("admin", "admin", ("admin",), "cfbus-admin"),
}


def own_key(folder: Path, role: Role, name: str) -> tuple[KeyPair, Path]:
    """The key of this host for this role: made now, or before by a join that was cut off."""
    path = folder / "keys" / f"{role}.key_secret"
    make_dir(path.parent)
    if not path.exists():
        keys.save(keys.generate(), path, name, role.value)
    pair = keys.load(path)
    logs.register_secret(pair.secret.decode())
    return pair, path


def enrol(invite: Invite, public: bytes, name: str) -> m.Enrolled:
    """Let the invite bring the key in. Each thing that may go wrong is an error of its own."""
    facts = invite.facts
    wish = m.Enrol(public=public.decode("ascii"), name=name, dataset=facts.project)
    try:
        with Conversation(facts.endpoint, facts.server, invite.pair, None) as talk:
            answer = talk.exchange(wish, lambda message: isinstance(message, m.Enrolled), asking.TIMEOUT_SECONDS)
            trouble = talk.link.trouble
    except WrongServerError:
        raise _other(facts) from None
    except KeyRefusedError as error:
        hint = "It was withdrawn, or ended long ago: ask the maintainer for a new one."
        raise KeyRefusedError(f"The broker at {facts.endpoint} does not know this invite.", hint) from error
    if not isinstance(answer, m.Enrolled):
        raise _unreachable(facts, trouble, invite.expires)
    if answer.state == "refused":
        kind, hint = _REFUSALS.get(answer.code, (KeyRefusedError, "Ask the maintainer."))
        raise kind(logs.display(answer.sentence, 300) or "The broker refuses this invite.", hint)
    if answer.state not in ("active", "pending", "retiring"):
        raise KeyRefusedError(f"The key that this invite let in is {answer.state} now.", "Ask the maintainer why.")
    return answer


def _other(facts: Facts) -> OtherProjectError:
    return OtherProjectError(
        f"What answers at {facts.endpoint} is not the broker of {logs.display(facts.project, 100)!r}: that has the key"
        f" {keys.fingerprint(facts.server)}.",
        "Ask the maintainer whether the broker's key or address changed. Do not go on if they know of nothing.",
    )


def _unreachable(facts: Facts, trouble: Connection | None, expires: int | None = None) -> UnreachableError:
    if trouble is Connection.WRONG_SERVER:
        raise _other(facts)
    why = "" if trouble is None else f" {trouble.sentence(facts.endpoint)}"
    over = expires is not None and time.time() > expires
    hint = "Are you online, is the broker running, and does a firewall let you out to that port? Then try again."
    return UnreachableError(
        f"The broker at {facts.endpoint} cannot be reached.{why}",
        hint + (" By this host's clock the invite has ended, too." if over else ""),
    )


def try_out(facts: Facts, pair: KeyPair, name: str) -> m.Welcome | None:
    """See that the broker lets the key in; what it says to a worker. Errors as for ``enrol``."""
    if facts.role is Role.MONITOR:
        _try_stats(facts, pair)
        return None
    try:
        met = asking.greet(facts.endpoint, facts.server, pair, facts.role, name)
    except WrongServerError:
        raise _other(facts) from None
    if not met.connected and met.trouble is Connection.LATER:
        raise KeyRefusedError(
            met.trouble.sentence(facts.endpoint), f"Ask the maintainer; the key is {keys.fingerprint(pair.public)}."
        )
    if not met.connected or (facts.role is Role.WORKER and met.welcome is None):
        raise _unreachable(facts, met.trouble)
    if met.welcome is not None and met.welcome.dataset != facts.project:
        raise _other(facts)
    return met.welcome


def _try_stats(facts: Facts, pair: KeyPair) -> None:
    if not facts.stats:
        raise UsageError("This line does not say where the statistics are.", "Ask the maintainer for another: --stats.")
    outcome = subscribed(facts.stats, facts.server, pair)
    if outcome is Connection.HANDSHAKE_OK:
        return
    if outcome in (Connection.REFUSED, Connection.CLOSED):
        raise refusal(outcome, facts.stats, pair.public)
    if outcome is Connection.LATER:
        hint = f"Ask the maintainer; the key is {keys.fingerprint(pair.public)}."
        raise KeyRefusedError(outcome.sentence(facts.stats), hint)
    raise _unreachable(facts, outcome)


def subscribed(endpoint: str, server: bytes, pair: KeyPair) -> Connection | None:
    """What becomes of a subscription to the statistics, within a bounded time; ``None`` if nothing was told.

    A stranger dials beside it: only what it is told shows whether a key that is hung up on waits, or the server is
    another.
    """
    context: sockets.Context = zmq.Context()
    socket, watch = sockets.connect_stats(context, pair, server, endpoint, [b"status"])
    stranger = connections.Stranger(context, endpoint, server, stats=True)
    seen: list[Connection] = []
    why: Connection | None = None
    deadline = time.monotonic() + asking.TIMEOUT_SECONDS
    try:
        while not _told(seen, why) and time.monotonic() < deadline:
            watch.events.poll(LOOK_MS)
            seen += watch.read(time.monotonic())
            outcome = None if why else stranger.look(time.monotonic())
            why = connections.diagnosis(outcome) if outcome is not None else why
    finally:
        stranger.close()
        watch.close()
        socket.close()
        context.term()
    return _told(seen, why) or (seen[-1] if seen else None)


def _told(seen: list[Connection], why: Connection | None) -> Connection | None:
    """What became of it, once that is certain."""
    for certain in (Connection.HANDSHAKE_OK, Connection.REFUSED, Connection.CLOSED, Connection.WRONG_SERVER):
        if certain in seen:
            return certain
    return why if Connection.HUNG_UP in seen else None


def clock_warning(there: int) -> str:
    """What is wrong with this host's clock by the broker's (microseconds); empty if nothing is."""
    ahead = time.time() - there / 1e6
    if abs(ahead) <= CLOCK_SECONDS:
        return ""
    way = "ahead of" if ahead > 0 else "behind"
    minutes = f"{abs(ahead) / 60:.0f} minutes"
    return f"This host's clock is {minutes} {way} the broker's: set it (timedatectl), or dates here mislead."


def config_path(folder: Path, role: Role) -> Path:
    """Where the daemon's configuration goes; raises ``UsageError`` if one is there."""
    path = folder / f"{PLACES[role].component}.yaml"
    with disk_errors(path):
        if path.exists():
            raise UsageError(
                f"{path} is there already: this host has joined a bus.",
                f"Start `{PLACES[role].start} --config {path}`; or join another bus with --dir FOLDER.",
            )
    return path


def write_config(folder: Path, facts: Facts, key_file: Path, engine: Engine, overrides: tuple[str, ...]) -> Path:
    """The daemon's configuration, whole or not at all; returns its path."""
    path = config_path(folder, facts.role)
    settings = _settings(folder, facts, key_file, engine, overrides)
    text = config.write_commented(settings, folder, PLACES[facts.role].sections)
    make_dir(folder)
    with new_file(path.with_name(path.name + ".new"), private=config.is_private(settings)) as file:
        file.write(text.encode())
    publish(path.with_name(path.name + ".new"), path)
    return path


def check_overrides(folder: Path, facts: Facts, overrides: tuple[str, ...]) -> None:
    """Raises ``ConfigError`` for what could not be written later."""
    _settings(folder, facts, folder / "keys" / f"{facts.role}.key_secret", Engine(), overrides)


def _settings(folder: Path, facts: Facts, key_file: Path, engine: Engine, overrides: tuple[str, ...]) -> config.Config:
    section = PLACES[facts.role].section
    told = {
        (section, "server"): facts.endpoint,
        (section, "server_key"): keys.public_line(facts.server, "broker"),
        (section, "key_file"): str(key_file),
    }
    if facts.stats and section == "admin":
        told[section, "stats"] = facts.stats
    if facts.role is Role.WORKER:
        told["worker", "spool_dir"] = str(folder / "spool")
    if facts.role is not Role.MONITOR and facts.project.isprintable():
        told["dataset", "name"] = facts.project
    told |= _captioning(engine)
    options = [Option("the invite", path, value) for path, value in told.items()]
    return config.load("join", NO_FILE, [*options, *overrides], os.environ).config


def _captioning(engine: Engine) -> dict[tuple[str, str], str]:
    """The engine that the bus captions with; its model only if it is called like one of the hub's."""
    if engine.name not in ENGINES:
        return {}
    told = {("captions", "engine"): engine.name}
    if engine.name == "vllm" and _MODEL.fullmatch(engine.model):
        told["vllm", "model"] = engine.model
    return told
