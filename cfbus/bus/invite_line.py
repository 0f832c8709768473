"""An invite, and a join file, as one word that can be mailed: where a bus is and whose; for an invite its secret too.

Knows the form alone. Whether an invite is good is decided by the broker's registry, which has only its public half.

Invariants: a word that was changed by accident is refused and never half believed; the secret is never part of a
``repr``; nothing in a word is opened, run or trusted before a person was shown it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Final

import zmq
from zmq.utils import z85

from cfbus.bus.keys import KEY_BYTES, KeyPair, raw_key
from cfbus.bus.messages import Role
from cfbus.errors import DamagedLineError, UsageError

INVITE: Final = "cfbus-invite1"
JOIN: Final = "cfbus-join1"
LINE_LIMIT: Final = 4096
"""What a terminal takes as one line."""
_CHECKSUM_CHARS: Final = 8
_ENDPOINT: Final = re.compile(r"tcp://[^\s/]{1,240}:[0-9]{1,5}")
_PARTS: Final = re.compile(r"([\w-]{0,40})\.([\w-]{100,})\.([\w-]{0,20})", re.ASCII)
_AGAIN: Final = "Copy the whole line again, from cfbus- to its end, or ask for a file."


@dataclass(frozen=True, slots=True)
class Facts:
    """What a newcomer must know of a bus; nothing in it is secret. ``stats`` may be empty, but not for monitors."""

    endpoint: str
    server: bytes  # the broker's public key, Z85
    project: str
    role: Role
    stats: str = ""


@dataclass(frozen=True, slots=True)
class Invite:
    """The facts, until when (UTC seconds) it can be used, and the key to use it with."""

    facts: Facts
    expires: int
    pair: KeyPair = field(repr=False)


def invite_line(invite: Invite) -> str:
    """The word to give to the one who is invited. It is a secret."""
    secret = raw_key(invite.pair.secret)
    assert secret is not None
    return _line(INVITE, {**_plain(invite.facts), "x": invite.expires, "s": _base64(secret)})


def join_line(facts: Facts) -> str:
    """The word for somebody whose key was added by hand."""
    return _line(JOIN, _plain(facts))


def parse_invite(text: str) -> Invite:
    """The invite in a text; ``DamagedLineError`` if it was damaged, ``UsageError`` if it is none."""
    said = _said(INVITE, text, "an invite", "The maintainer makes one with `cfbus-admin invite NAME`.")
    expires, secret = said.get("x"), _key(said.get("s"))
    if not isinstance(expires, int) or isinstance(expires, bool) or secret is None:
        raise _damaged("invite")
    return Invite(_facts(said, "invite"), expires, KeyPair(zmq.curve_public(secret), secret))


def parse_join(text: str) -> Facts:
    """The facts in a join file; errors as ``parse_invite``. Lines that begin with # are for people."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    where = "The maintainer's `cfbus-admin keys add` writes one."
    return _facts(_said(JOIN, "".join(lines), "a join file", where), "join file")


def _plain(facts: Facts) -> dict[str, object]:
    server = raw_key(facts.server)
    assert server is not None
    plain = {"e": facts.endpoint, "k": _base64(server), "p": facts.project, "r": facts.role.value}
    return {**plain, **({"t": facts.stats} if facts.stats else {})}


def _line(prefix: str, said: dict[str, object]) -> str:
    body = _base64(json.dumps(said, separators=(",", ":")).encode())
    return f"{prefix}.{body}.{_checksum(prefix, body)}"


def _said(prefix: str, text: str, what: str, where: str) -> dict[str, object]:
    """The fields in a word. Mail and terminals break long lines, so white space inside does not count."""
    word = "".join(text.split())
    if not word.startswith(f"{prefix}."):
        if _is_damaged(word):
            raise _damaged(what.partition(" ")[2])
        raise UsageError(f"This is not {what}: it must begin with {prefix}.", where)
    body, _, checksum = word.removeprefix(f"{prefix}.").partition(".")
    if len(word) > LINE_LIMIT or checksum != _checksum(prefix, body):
        raise _damaged(what.partition(" ")[2])
    try:
        said = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise _damaged(what.partition(" ")[2])
    return said


def _is_damaged(word: str) -> bool:
    """Whether something without the right beginning looks like a word of ours, and is no whole one of another kind."""
    parts = _PARTS.fullmatch(word)
    return parts is not None and parts[3] != _checksum(parts[1], parts[2])


def _facts(said: dict[str, object], what: str) -> Facts:
    endpoint, server, project, role = said.get("e"), _key(said.get("k")), said.get("p"), said.get("r")
    stats = said.get("t", "")
    addresses = isinstance(endpoint, str) and _ENDPOINT.fullmatch(endpoint) and isinstance(stats, str)
    if not addresses or not isinstance(project, str) or server is None or role not in set(Role) - {Role.ENROL}:
        raise _damaged(what)
    if stats and not _ENDPOINT.fullmatch(str(stats)):
        raise _damaged(what)
    return Facts(str(endpoint), server, project, Role(str(role)), str(stats))


def _damaged(what: str) -> DamagedLineError:
    return DamagedLineError(f"The {what} was damaged in copying.", _AGAIN)


def _key(text: object) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except ValueError:
        return None
    return z85.encode(raw) if len(raw) == KEY_BYTES else None


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _checksum(prefix: str, body: str) -> str:
    return _base64(hashlib.sha256(f"{prefix}.{body}".encode("utf-8", "replace")).digest())[:_CHECKSUM_CHARS]
