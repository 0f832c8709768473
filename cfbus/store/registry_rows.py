"""What the registry's tables hold, as values: contributors, keys, invites, lines of the log.

Knows nothing of files or decisions; all times are UTC seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cfbus.bus.auth import KeyState
from cfbus.bus.keys import fingerprint
from cfbus.bus.messages import Role

KEY_COLUMNS: Final = "public, role, state, contributor_id, name, not_before, not_after, added, reason"
INVITE_COLUMNS: Final = "public, role, contributor_id, uses, approve, not_after, added, revoked"
CONTRIBUTOR_COLUMNS: Final = "contributor_id, name, trust_level, added, contact, note"


@dataclass(frozen=True, slots=True)
class Contributor:
    """Who is credited; ``trust_level`` is 0 (stranger) to 5 (the maintainer)."""

    contributor_id: str
    name: str
    trust_level: int
    added: float
    contact: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as stored; ``state`` is what was decided, dates are not applied to it."""

    public: bytes
    role: Role
    state: KeyState
    contributor_id: str
    name: str
    not_before: float | None
    not_after: float | None
    added: float
    reason: str = ""

    @property
    def mark(self) -> str:
        """Its fingerprint."""
        return fingerprint(self.public)


@dataclass(frozen=True, slots=True)
class InviteRow:
    """A right to enrol ``uses`` keys of one role for one contributor; ``public`` is the invite's own key."""

    public: bytes
    role: Role
    contributor_id: str
    uses: int
    approve: bool
    not_after: float
    added: float
    revoked: bool
    used: int = 0

    @property
    def mark(self) -> str:
        """Its fingerprint."""
        return fingerprint(self.public)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log; ``seq`` grows by one."""

    seq: int
    at: float
    who: str
    verb: str
    arguments: Mapping[str, str]
    outcome: str


def key_row(row: tuple[Any, ...]) -> KeyRow:
    """From ``KEY_COLUMNS``."""
    public, role, state, *rest = row
    return KeyRow(public.encode("ascii"), Role(role), KeyState(state), *rest)


def invite_row(row: tuple[Any, ...]) -> InviteRow:
    """From ``INVITE_COLUMNS`` and the count of enrolments."""
    public, role, contributor_id, uses, approve, not_after, added, revoked, used = row
    return InviteRow(
        public.encode("ascii"), Role(role), contributor_id, uses, bool(approve), not_after, added, bool(revoked), used
    )


def date(at: float | None) -> str:
    """A time for people and scripts; one that is missing is ``never``."""
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
