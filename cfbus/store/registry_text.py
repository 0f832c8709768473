"""Keys as lines of text, for a repository: one line for each, sorted, without a secret.

A line is ``cfbus-key1 <key>.<checksum> role=… state=… expires=… contributor=… trust=… name=…``, quoted as for a shell.
Knows the form alone; what importing one means is decided by ``registry_verbs``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cfbus.bus.auth import KeyState
from cfbus.bus.keys import parse_public_line, public_line
from cfbus.bus.messages import Role
from cfbus.errors import UsageError
from cfbus.store.registry_rows import Contributor, KeyRow, date

_FIELDS: Final = frozenset({"role", "state", "expires", "contributor", "trust", "name"})


@dataclass(frozen=True, slots=True)
class KeyText:
    """What a line says."""

    public: bytes
    role: Role
    state: KeyState
    not_after: float | None
    contributor: str
    trust: int
    name: str


def export_line(row: KeyRow, owner: Contributor) -> str:
    """A key as a line."""
    prefix, key, _ = public_line(row.public, "x").split(" ", 2)
    said = {
        "role": row.role.value,
        "state": row.state.value,
        "expires": date(row.not_after),
        "contributor": owner.name,
        "trust": str(owner.trust_level),
        "name": row.name,
    }
    return shlex.join([prefix, key, *(f"{name}={value}" for name, value in said.items())])


def export_lines(rows: Iterable[KeyRow], owners: Mapping[str, Contributor]) -> list[str]:
    """All keys, in an order that no change of one of them upsets."""
    return sorted(export_line(row, owners[row.contributor_id]) for row in rows)


def parse_line(line: str) -> KeyText:
    """What a line of ``export_line`` says; ``UsageError`` if it is none."""
    try:
        prefix, key, *words = shlex.split(line)
    except ValueError:
        raise _wrong("it cannot be split into words") from None
    fields = dict(word.partition("=")[::2] for word in words)
    if set(fields) != _FIELDS or len(words) != len(_FIELDS):
        raise _wrong(f"it must say {', '.join(sorted(_FIELDS))}, each once")
    public, name = parse_public_line(f"{prefix} {key} {fields['name']}")
    try:
        role, state, trust = Role(fields["role"]), KeyState(fields["state"]), int(fields["trust"])
    except ValueError as error:
        raise _wrong(str(error)) from None
    return KeyText(public, role, state, parse_date(fields["expires"]), fields["contributor"], trust, name)


def parse_date(text: str) -> float | None:
    """A time as ``date`` writes it, or any of ISO 8601 (without a zone: UTC); ``never`` is ``None``."""
    if text == "never":
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong(f"{text!r} is no date such as 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _wrong(what: str) -> UsageError:
    return UsageError(f"This is not a line of `cfbus-admin keys export`: {what}.")
