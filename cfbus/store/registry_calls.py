"""One question to the registry and its answer: arguments that are checked as they are taken, and a table.

Knows what arguments may be; what the verbs do with them is in ``registry_verbs``. All of it is text from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from cfbus.bus.keys import parse_public_line
from cfbus.bus.messages import Role
from cfbus.errors import UsageError
from cfbus.store import registry_text
from cfbus.store.registry import Registry
from cfbus.store.registry_rows import Contributor, InviteRow, KeyRow

NEW_TRUST: Final = 1
"""Of a contributor about whom nothing was said."""
SHORTEST_MARK: Final = 6

Row = TypeVar("Row", KeyRow, InviteRow)


def is_meant(text: str, mark: str, name: str) -> bool:
    """Whether a person means this by a name, a fingerprint, or the beginning of one."""
    short = text.removeprefix("SHA256:")
    return text == name or (len(short) >= SHORTEST_MARK and mark.removeprefix("SHA256:").startswith(short))


def only(found: list[Row], text: str, what: str) -> Row:
    """The one that was found; raises ``UsageError`` for none or several."""
    if not found:
        hint = f"`cfbus-admin {what}s list` shows all; of a fingerprint {SHORTEST_MARK} characters are enough."
        raise UsageError(f"There is no {what} {text[:100]!r}.", hint)
    if len(found) > 1:
        raise UsageError(f"{len(found)} {what}s are meant by {text[:100]!r}.", "Give the whole fingerprint.")
    return found[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """A table; of a single thing it has one row."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One question: ``arguments`` as they came, ``who`` for the log, ``key_days`` for how long new keys last."""

    registry: Registry
    arguments: Mapping[str, str]
    who: str
    now: float
    key_days: int

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        text = self.arguments.get(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) < 12):
            raise UsageError(f"{name} must be a whole number, not {text[:40]!r}.")
        return int(text)

    def moment(self, name: str, default: float | None) -> float | None:
        """A date, or ``never``."""
        return registry_text.parse_date(self.arguments[name]) if name in self.arguments else default

    def role(self) -> Role:
        """The role asked for; a worker's when nothing was said."""
        text = self.arguments.get("role", Role.WORKER.value)
        if text not in set(Role) - {Role.ENROL}:
            raise UsageError(f"There is no role {text[:40]!r}.", f"Roles are {', '.join(set(Role) - {Role.ENROL})}.")
        return Role(text)

    def key(self) -> KeyRow:
        """The key that is meant by a fingerprint, the beginning of one, a public line, or a name that only one has."""
        text = self.arguments["key"].strip()
        rows = self.registry.keys()
        if text.startswith("cfbus-key1"):
            public, _ = parse_public_line(text)
            return only([row for row in rows if row.public == public], text, "key")
        return only([row for row in rows if is_meant(text, row.mark, row.name)], text, "key")

    def owner(self, name: str) -> Contributor:
        """The contributor of that name, new if there is none."""
        trust = self.whole("trust", NEW_TRUST)
        return self.registry.add_contributor(name, trust=trust, who=self.who, now=self.now)


Perform: TypeAlias = Callable[[Call], Answer]
