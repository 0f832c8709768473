"""What a maintainer may do to the registry, verb by verb, whether it was asked over the bus or on the broker's host.

Knows the registry; must not know sockets, who may ask, nor what follows for connections.

Invariants: a verb that is not in ``VERBS`` does not exist; an argument that a verb does not know is an error; after
``perform`` the audit log has at least one line more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Final

from cfbus.bus.auth import KeyState
from cfbus.errors import CfbusError, UsageError
from cfbus.store import invites
from cfbus.store import registry_key_verbs as of_keys
from cfbus.store.registry_calls import Answer, Call, Perform, is_meant, only
from cfbus.store.registry_rows import Contributor, InviteRow, date


def perform(verb: str, call: Call, *, logged: bool = True) -> Answer:
    """Do it, or raise a ``CfbusError`` that says why not; either way it is in the log. Only the later pages of an
    answer need not be ``logged``."""
    before = call.registry.last_line
    try:
        answer = _checked(verb, call)(call)
    except CfbusError as error:
        call.registry.audit(call.who, verb, call.arguments, f"refused: {error.message}", call.now)
        raise
    if call.registry.last_line == before and (logged or verb not in READS):
        call.registry.audit(call.who, verb, call.arguments, "done", call.now)
    return answer


def _checked(verb: str, call: Call) -> Perform:
    known = VERBS.get(verb)
    if known is None:
        raise UsageError(f"There is no verb {verb!r}.")
    action, needs, may = known
    missing = set(needs) - set(call.arguments)
    unknown = set(call.arguments) - {*needs, *may}
    if missing or unknown:
        raise UsageError(
            f"{verb} takes {', '.join((*needs, *may)) or 'nothing'}; needed are {', '.join(needs) or 'none'}."
        )
    return action


def _invite(call: Call) -> Answer:
    public = call.arguments["public"].encode("ascii", "replace")
    until = call.moment("expires", None)
    if until is None:
        raise UsageError("An invite must end at some time.")
    role = call.role()
    uses = call.whole("uses", 1)
    owner = call.owner(call.arguments["contributor"])
    row = invites.add_invite(
        call.registry,
        public,
        role,
        owner.contributor_id,
        uses=uses,
        approve=call.arguments.get("approve", "no") == "yes",
        not_after=until,
        who=call.who,
        now=call.now,
    )
    return _invite_rows(call, [row])


def _invite_rows(call: Call, rows: list[InviteRow]) -> Answer:
    names = {each.contributor_id: each.name for each in call.registry.contributors()}
    columns = ("fingerprint", "contributor", "role", "state", "used", "uses", "approve", "expires")
    return Answer(
        columns,
        tuple(
            (
                row.mark,
                names[row.contributor_id],
                row.role,
                _invite_state(row, call.now),
                str(row.used),
                str(row.uses),
                "yes" if row.approve else "no",
                date(row.not_after),
            )
            for row in rows
        ),
    )


def _invite_state(row: InviteRow, now: float) -> str:
    if row.revoked:
        return "revoked"
    if row.used >= row.uses:
        return "used up"
    return "expired" if now > row.not_after else "open"


def _invites(call: Call) -> Answer:
    return _invite_rows(call, call.registry.invites())


def _revoke_invite(call: Call) -> Answer:
    text = call.arguments["invite"].strip()
    row = only([each for each in call.registry.invites() if is_meant(text, each.mark, "")], text, "invite")
    invites.revoke_invite(call.registry, row.public, who=call.who, now=call.now)
    (again,) = [each for each in call.registry.invites() if each.public == row.public]
    return _invite_rows(call, [again])


def _contributor_rows(call: Call, found: list[Contributor]) -> Answer:
    counts = Counter(owner for (owner,) in call.registry.rows("SELECT contributor_id FROM keys"))
    columns = ("contributor", "name", "trust", "keys", "contact", "note")
    rows = [
        (
            each.contributor_id,
            each.name,
            str(each.trust_level),
            str(counts[each.contributor_id]),
            each.contact,
            each.note,
        )
        for each in found
    ]
    return Answer(columns, tuple(rows))


def _contributors(call: Call) -> Answer:
    return _contributor_rows(call, call.registry.contributors())


def _set_contributor(call: Call) -> Answer:
    name = call.arguments["name"]
    known = {each.name: each for each in call.registry.contributors()}
    if name not in known:
        raise UsageError(f"There is no contributor {name[:100]!r}.", "`cfbus-admin contributors add NAME` adds one.")
    return _changed(call, known[name])


def _add_contributor(call: Call) -> Answer:
    name = call.arguments["name"]
    if name in {each.name for each in call.registry.contributors()}:
        raise UsageError(
            f"There is a contributor {name[:100]!r} already.", "`cfbus-admin contributors set` changes it."
        )
    return _changed(call, call.owner(name))


def _changed(call: Call, known: Contributor) -> Answer:
    changed = call.registry.set_contributor(
        known.contributor_id,
        who=call.who,
        now=call.now,
        trust=call.whole("trust", known.trust_level),
        contact=call.arguments.get("contact"),
        note=call.arguments.get("note"),
    )
    return _contributor_rows(call, [changed])


def _audit(call: Call) -> Answer:
    since = call.moment("since", 0.0) or 0.0
    found = call.registry.audit_entries(after=call.whole("after", 0), since=since)
    rows = tuple(
        (
            str(each.seq),
            date(each.at),
            each.who,
            each.verb,
            json.dumps(dict(each.arguments), ensure_ascii=False),
            each.outcome,
        )
        for each in found
    )
    return Answer(("seq", "at", "who", "verb", "arguments", "outcome"), rows)


VERBS: Final[Mapping[str, tuple[Perform, tuple[str, ...], tuple[str, ...]]]] = {
    "keys": (of_keys.keys, (), ()),
    "key": (of_keys.show, ("key",), ()),
    "add-key": (of_keys.add_key, ("line",), ("role", "contributor", "trust", "expires")),
    "approve-key": (of_keys.state(KeyState.ACTIVE, KeyState.PENDING), ("key",), ()),
    "suspend-key": (
        of_keys.state(KeyState.SUSPENDED, KeyState.ACTIVE, KeyState.PENDING, KeyState.RETIRING),
        ("key",),
        ("reason",),
    ),
    "resume-key": (of_keys.state(KeyState.ACTIVE, KeyState.SUSPENDED), ("key",), ()),
    "revoke-key": (
        of_keys.state(KeyState.REVOKED, KeyState.ACTIVE, KeyState.PENDING, KeyState.RETIRING, KeyState.SUSPENDED),
        ("key",),
        ("reason",),
    ),
    "expire-key": (of_keys.expire, ("key", "when"), ()),
    "export-keys": (of_keys.export, (), ()),
    "import-key": (of_keys.import_line, ("line",), ()),
    "invite": (_invite, ("public", "contributor", "expires"), ("role", "uses", "approve", "trust")),
    "invites": (_invites, (), ()),
    "revoke-invite": (_revoke_invite, ("invite",), ()),
    "contributors": (_contributors, (), ()),
    "add-contributor": (_add_contributor, ("name",), ("trust", "contact", "note")),
    "set-contributor": (_set_contributor, ("name",), ("trust", "contact", "note")),
    "audit": (_audit, (), ("since", "after")),
}
"""Verb -> what does it, what it needs, what else it takes."""
READS: Final = frozenset({"keys", "key", "export-keys", "invites", "contributors", "audit"})
"""Those that change nothing."""
