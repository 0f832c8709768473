"""Verbs about keys: listed, added, approved, suspended, resumed, revoked, dated, exported, imported.

Knows the registry; must not know who may ask, nor what follows for connections.
"""

from __future__ import annotations

from typing import Final

from cfbus.bus.auth import KeyState
from cfbus.bus.keys import fingerprint, parse_public_line, public_line
from cfbus.errors import UsageError
from cfbus.store import registry_text
from cfbus.store.registry import LEEWAY_SECONDS
from cfbus.store.registry_calls import Answer, Call, Perform
from cfbus.store.registry_rows import KeyRow, date

DAY: Final = 86_400.0
REASON_LIMIT: Final = 200
_EXPIRING_SECONDS: Final = 14 * DAY

_KEY_COLUMNS: Final = ("fingerprint", "name", "role", "state", "contributor", "expires", "mark", "reason")


def key_rows(call: Call, rows: list[KeyRow]) -> Answer:
    names = {each.contributor_id: each.name for each in call.registry.contributors()}
    table = call.registry.key_table(call.now)
    lines = []
    for row in rows:
        state = table[row.public].state
        mark = _expiring(row, state, call.now)
        lines.append(
            (row.mark, row.name, row.role, state, names[row.contributor_id], date(row.not_after), mark, row.reason)
        )
    return Answer(_KEY_COLUMNS, tuple(lines))


def _expiring(row: KeyRow, state: KeyState, now: float) -> str:
    if state not in (KeyState.ACTIVE, KeyState.RETIRING) or row.not_after is None:
        return ""
    left = row.not_after - now
    return f"ends in {max(left, 0.0) / DAY:.0f} days" if left < _EXPIRING_SECONDS else ""


def keys(call: Call) -> Answer:
    return key_rows(call, call.registry.keys())


def show(call: Call) -> Answer:
    row = call.key()
    (said,) = key_rows(call, [row]).rows
    origin = call.registry.rows("SELECT invite FROM enrolments WHERE public = ?", row.public.decode("ascii"))
    invite = fingerprint(origin[0][0].encode("ascii")) if origin else ""
    more = (public_line(row.public, row.name), date(row.added), date(row.not_before) if row.not_before else "", invite)
    return Answer((*_KEY_COLUMNS, "line", "added", "begins", "invite"), ((*said, *more),))


def add_key(call: Call) -> Answer:
    public, name = parse_public_line(call.arguments["line"])
    if any(each.public == public for each in call.registry.invites()):
        raise UsageError("This is the key of an invite, and can be no other's.")
    role = call.role()
    owner = call.owner(call.arguments.get("contributor", name))
    lasting = call.now + call.key_days * DAY if call.key_days else None
    row = call.registry.add_key(
        public,
        role,
        owner.contributor_id,
        name,
        who=call.who,
        now=call.now,
        not_after=call.moment("expires", lasting),
    )
    return key_rows(call, [row])


def state(state: KeyState, *before: KeyState) -> Perform:
    """A verb that brings a key from one of some states into another."""

    def change(call: Call) -> Answer:
        row = call.key()
        reason = call.arguments.get("reason", "")
        if len(reason) > REASON_LIMIT or not (reason.isprintable() or not reason):
            raise UsageError(f"A reason is one line of at most {REASON_LIMIT} printable characters.")
        if row.state is not state and row.state not in before:
            raise UsageError(f"The key {row.mark} is {row.state}; this is for keys that are {', '.join(before)}.")
        if state is not KeyState.ACTIVE:
            _not_oneself(call, row)
        call.registry.set_state(row.public, state, who=call.who, now=call.now, reason=reason)
        return _again(call, row)

    return change


def _not_oneself(call: Call, row: KeyRow) -> None:
    if row.mark == call.who:
        raise UsageError("This is the key that you ask with.", "Ask with another admin's key, or on the broker's host.")


def _again(call: Call, row: KeyRow) -> Answer:
    known = call.registry.key(row.public)
    assert known is not None  # keys are never deleted
    return key_rows(call, [known])


def expire(call: Call) -> Answer:
    row = call.key()
    at_once = call.now - LEEWAY_SECONDS - 1.0  # the leeway is for clocks, not for decisions
    when = at_once if call.arguments["when"] == "now" else call.moment("when", None)
    if when is not None and when <= call.now:
        _not_oneself(call, row)
    call.registry.set_expiry(row.public, when, who=call.who, now=call.now)
    return _again(call, row)


def export(call: Call) -> Answer:
    owners = {each.contributor_id: each for each in call.registry.contributors()}
    lines = registry_text.export_lines(call.registry.keys(), owners)
    return Answer(("line",), tuple((line,) for line in lines))


def import_line(call: Call) -> Answer:
    """One line: a key that is new is added, one that is there is brought to what the line says."""
    said = registry_text.parse_line(call.arguments["line"])
    known = call.registry.key(said.public)
    who, now = call.who, call.now
    if said.state is KeyState.EXPIRED:
        raise UsageError("A key expires by its date, not by its state.")
    owner = call.registry.add_contributor(said.contributor, trust=said.trust, who=who, now=now)
    row = call.registry.add_key(
        said.public,
        said.role,
        owner.contributor_id,
        said.name,
        who=who,
        now=now,
        state=said.state,
        not_after=said.not_after,
    )
    call.registry.set_state(row.public, said.state, who=who, now=now, reason=row.reason)
    call.registry.set_expiry(row.public, said.not_after, who=who, now=now)
    same = known is not None and (known.state, known.not_after) == (said.state, said.not_after)
    done = "added" if known is None else "as it was" if same else "changed"
    return Answer(("fingerprint", "done"), ((row.mark, done),))
