"""Invites: a right to enrol a key, made by a maintainer, used by whoever holds the secret half of the invite's own key.

Decides whether an invite is still good, and does so inside the transaction that uses it. Knows the registry and
nothing of sockets; the secret half of an invite never comes here.

Invariants: an invite is used at most as often as was said, whoever else uses it at the same moment; the same key
enrolled again by the same invite is the same answer and no further use: a join that was cut off can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cfbus.bus.auth import KeyState
from cfbus.bus.keys import check_name, fingerprint, raw_key
from cfbus.bus.messages import Role
from cfbus.errors import UsageError
from cfbus.store.registry import LEEWAY_SECONDS, Registry
from cfbus.store.registry_rows import InviteRow, KeyRow, date

ROLES: Final = (Role.WORKER, Role.FEEDER, Role.MONITOR)
"""What an invite can be for. Writers and admins are few, and are added by hand."""
MAX_USES: Final = 1000


class Refusal(StrEnum):
    """Why a key was not enrolled."""

    UNKNOWN = "unknown-invite"
    REVOKED = "revoked"
    EXPIRED = "expired"
    USED = "used-up"
    TAKEN = "key-known"
    CLOCK = "clock"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What became of a wish to enrol: the key as it is now, or why not, in a sentence."""

    key: KeyRow | None
    refusal: Refusal | None = None
    sentence: str = ""


def check_public(public: bytes) -> bytes:
    """``public`` if it is a key; raises ``UsageError``."""
    if raw_key(public) is None:
        raise UsageError("This is not a public key: 40 characters of Z85 are wanted.")
    return public


def add_invite(
    registry: Registry,
    public: bytes,
    role: Role,
    contributor_id: str,
    *,
    uses: int,
    approve: bool,
    not_after: float,
    who: str,
    now: float,
) -> InviteRow:
    """A new invite; only its public half is ever known here. Raises ``UsageError``, ``TryAgainError`` (clock)."""
    if role not in ROLES:
        raise UsageError(
            f"An invite can be for {', '.join(ROLES)}, not for {role}.",
            "Keys of other roles are added by hand: cfbus-admin keys add LINE.",
        )
    if not 1 <= uses <= MAX_USES:
        raise UsageError(f"An invite has from 1 to {MAX_USES} uses, not {uses}.")
    if not_after <= now:
        raise UsageError("An invite must end in the future.")
    row = InviteRow(check_public(public), role, contributor_id, uses, approve, not_after, now, revoked=False)
    with registry.writing() as database:
        registry.check_clock(now)
        if registry.key(public) is not None or any(each.public == public for each in registry.invites()):
            raise UsageError(f"The key {row.mark} is known already.", "Make a new invite.")
        database.execute(
            "INSERT INTO invites (public, role, contributor_id, uses, approve, not_after, added) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (public.decode("ascii"), role, contributor_id, uses, int(approve), not_after, now),
        )
        said = {"invite": row.mark, "role": role, "contributor": contributor_id, "uses": str(uses)}
        registry.log(
            who, "add-invite", {**said, "expires": date(not_after), "approve": "yes" if approve else "no"}, "done", now
        )
    return row


def revoke_invite(registry: Registry, public: bytes, *, who: str, now: float) -> None:
    """Nobody comes in by it any more; keys that did stay as they are."""
    with registry.writing() as database:
        database.execute("UPDATE invites SET revoked = 1 WHERE public = ?", (public.decode("ascii"),))
        registry.log(who, "revoke-invite", {"invite": fingerprint(public)}, "done", now)


def enrol(registry: Registry, invite: bytes, public: bytes, name: str, *, key_days: int, now: float) -> Enrolment:
    """Enrol ``public`` by the invite whose public half is ``invite``; it ends after ``key_days`` (0: never)."""
    try:
        check_name(name)
        check_public(public)
    except UsageError as error:
        return Enrolment(None, Refusal.NAME, str(error))
    with registry.writing() as database:
        row = next((each for each in registry.invites() if each.public == invite), None)
        if row is None:
            return Enrolment(None, Refusal.UNKNOWN, "This invite is not known here.")
        known = registry.key(public)
        refused = _refusal(registry, row, known, public, now)
        if refused is not None:
            return refused
        if known is not None:
            return Enrolment(known)
        state = KeyState.PENDING if row.approve else KeyState.ACTIVE
        not_after = now + key_days * 86_400.0 if key_days else None
        key = KeyRow(public, row.role, state, row.contributor_id, name, None, not_after, now)
        registry.insert_key(database, key, f"invite {row.mark}", now)
        values = (public.decode("ascii"), invite.decode("ascii"), now)
        database.execute("INSERT INTO enrolments (public, invite, at) VALUES (?, ?, ?)", values)
    return Enrolment(key)


def _refusal(registry: Registry, row: InviteRow, known: KeyRow | None, public: bytes, now: float) -> Enrolment | None:
    """Why not; ``None`` if the key may be enrolled, or was by this very invite."""
    if row.revoked:
        return Enrolment(None, Refusal.REVOKED, "This invite was withdrawn.")
    if known is not None:
        query = "SELECT 1 FROM enrolments WHERE public = ? AND invite = ?"
        if registry.rows(query, public.decode("ascii"), row.public.decode("ascii")):
            return None
        return Enrolment(None, Refusal.TAKEN, f"The key {known.mark} is known here already, not by this invite.")
    if any(each.public == public for each in registry.invites()):
        return Enrolment(None, Refusal.TAKEN, "The key of an invite cannot be enrolled.")
    if registry.clock_is_behind(now):
        return Enrolment(None, Refusal.CLOCK, "The clock of the broker's host is wrong; it enrols nobody by it.")
    if now > row.not_after + LEEWAY_SECONDS:
        return Enrolment(None, Refusal.EXPIRED, f"This invite ended at {date(row.not_after)}.")
    if row.used >= row.uses:
        times = "once, and it was" if row.uses == 1 else f"{row.uses} times, and it was"
        return Enrolment(None, Refusal.USED, f"This invite could be used {times}.")
    return None
