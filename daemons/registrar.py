"""The broker's keeper of the registry: the table of who is admitted, and answers to admins and to those with an invite.

Knows the registry and messages; must not know sockets: what follows for connections is the broker's. A registry that
cannot be read leaves the table as it was, and an alarm in the log at each try: nobody is put out by a broken file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cfbus import logs, runtime
from cfbus.bus import messages as m
from cfbus.bus.auth import KeyState, KeyTable
from cfbus.core.asking import reply_of
from cfbus.core.effects import Peer
from cfbus.core.told import Told
from cfbus.daemons.key_age import AGAIN_SECONDS, WARN_SECONDS
from cfbus.errors import CfbusError, DamagedStoreError, TryAgainError
from cfbus.link import KEY_CLOSED
from cfbus.store import invites
from cfbus.store.registry import Registry
from cfbus.store.registry_calls import Answer, Call
from cfbus.store.registry_rows import date
from cfbus.store.registry_verbs import READS, perform

_FAREWELLS: Mapping[KeyState | None, str] = {
    KeyState.PENDING: "this key waits for approval",
    KeyState.SUSPENDED: "this key is suspended",
    KeyState.REVOKED: "this key was revoked",
    KeyState.EXPIRED: "this key has ended",
}
_REASONED = frozenset({KeyState.SUSPENDED, KeyState.REVOKED})
NAMED = 5
"""So many of the keys that end soon are named in the log."""
MICROSECONDS = 1_000_000
MAX_MICROSECONDS = (1 << 53) - 1
PROBLEM_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Rules:
    """What the registrar goes by; from the configuration."""

    path: Path
    dataset: str
    key_days: int
    spec: m.Spec | None = None


class Registrar:
    """The registry of a broker that serves."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._log = logs.get_logger()
        self._registry: Registry | None = Registry.open(rules.path, create=True)
        self.table = KeyTable()
        self.contributors: tuple[tuple[str, str, int], ...] = ()
        self._take_up(self._registry)
        self._warn_at = 0.0
        self._warn(runtime.now())

    def change(self, key_days: int, spec: m.Spec) -> None:
        """The broker's configuration has changed."""
        self._rules = replace(self._rules, key_days=key_days, spec=spec)

    def close(self) -> None:
        """Release the file."""
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    # ------------------------------------------------------------------ the table

    def reload(self) -> None:
        """Read the file again, as it lies there now. What is broken changes nothing but the log."""
        try:
            self._take_up(self._opened_again())
        except (CfbusError, sqlite3.Error, ValueError) as error:
            self.close()
            self._log.error("keys.not-reloaded", why=str(error), kept=len(self.table))
        self._warn(runtime.now())

    def _warn(self, at: float) -> None:
        """Once a day, of keys that end soon: whoever runs on them is told too, but may not be looking."""
        if at < self._warn_at:
            return
        self._warn_at = at + AGAIN_SECONDS
        limit = time.time() + WARN_SECONDS
        admitted = [each for each in self.table.values() if self.table.admitted(each.public)]
        dated = [(each.expires or limit, each.name) for each in admitted if each.role is not m.Role.ENROL]
        soon = sorted(each for each in dated if each[0] < limit)
        if soon:
            first = [f"{name}: {date(expires)}" for expires, name in soon[:NAMED]]
            hint = "`cfbus-admin keys list` shows all, `cfbus-admin keys expire KEY 90d` lets one last longer"
            self._log.warning("keys.end-soon", keys=len(soon), first=first, hint=hint)

    def _opened_again(self) -> Registry:
        """Closed first: another file may lie there, and two at a time must not be open (``Registry.open``)."""
        self.close()
        self._registry = Registry.open(self._rules.path, create=False)
        return self._registry

    def _take_up(self, registry: Registry) -> None:
        now = time.time()
        contributors = tuple((each.contributor_id, each.name, each.trust_level) for each in registry.contributors())
        self.table = registry.key_table(now)
        self.contributors = contributors
        if registry.clock_is_behind(now):
            why = "This host's clock is behind the newest line of the audit log: no key is enrolled, none expires."
            self._log.error("clock.behind", why=why)

    def _there(self) -> Registry:
        try:
            return self._registry or self._opened_again()
        except sqlite3.Error as error:
            raise DamagedStoreError(f"The registry cannot be used: {error}.") from error

    def farewell(self, public: bytes) -> m.Error:
        """What a peer is told whose key is not admitted any more."""
        entry = self.table.get(public)
        state = entry.state if entry is not None else None
        sentence = _FAREWELLS.get(state, "this key is not known here any more")
        reason = f" ({entry.reason})" if entry is not None and entry.reason and state in _REASONED else ""
        return m.Error(code=KEY_CLOSED, sentence=f"{sentence}{reason}.")

    # ------------------------------------------------------------------ admins

    def note(self, peer: Peer, request: m.Admin, outcome: str = "done") -> None:
        """A call that is no business of the registry's, in the audit log. One that finds no room there is not undone
        by that; it is in the other log then."""
        try:
            self._there().audit(peer.key, request.verb, dict(request.arguments), outcome, time.time())
        except (CfbusError, sqlite3.Error) as error:
            self._log.error("audit.not-written", verb=request.verb, who=peer.key, why=str(error))

    def suspend(self, public: bytes, why: str) -> None:
        """For what its owner did to the bus; the table is up to date afterwards."""
        try:
            registry = self._there()
            registry.set_state(public, KeyState.SUSPENDED, who="broker", now=time.time(), reason=why)
            self._take_up(registry)
        except (CfbusError, sqlite3.Error) as error:
            self._log.error("key.not-suspended", why=str(error))

    def answer(self, peer: Peer, request: m.Admin) -> m.Reply:
        """The answer to an admin; the table is up to date afterwards."""
        try:
            answer = self._ask(peer, request)
        except (CfbusError, sqlite3.Error) as error:
            later = isinstance(error, TryAgainError)
            return m.Reply(request=request.request, problem=str(error)[:PROBLEM_CHARS], later=later)
        return reply_of(request, Told(columns=answer.columns, rows=answer.rows))

    def _ask(self, peer: Peer, request: m.Admin) -> Answer:
        registry = self._there()
        call = Call(registry, dict(request.arguments), peer.key, time.time(), self._rules.key_days)
        answer = perform(request.verb, call, logged=not request.page)
        if request.verb not in READS:
            self._take_up(registry)
        return answer

    # ------------------------------------------------------------------ invites

    def enrol(self, peer: Peer, request: m.Enrol) -> m.Enrolled:
        """The answer to somebody with an invite; the table is up to date afterwards."""
        try:
            enrolled = self._enrol(peer, request)
        except (CfbusError, sqlite3.Error) as error:
            self._log.error("key.not-enrolled", why=str(error))
            enrolled = self._refused("try-again", "The broker cannot enrol anybody now; try again later.")
        self._log.info("key.asked-for", state=enrolled.state, why=enrolled.code, invite=peer.key, name=request.name)
        return enrolled

    def _enrol(self, peer: Peer, request: m.Enrol) -> m.Enrolled:
        if request.dataset != self._rules.dataset:
            return self._refused("other-project", "This bus is not the one that the invite is for.")
        registry = self._there()
        invite, public = peer.public.encode("ascii"), request.public.encode("ascii")
        done = invites.enrol(registry, invite, public, request.name, key_days=self._rules.key_days, now=time.time())
        if done.key is None:
            return self._refused(done.refusal or "", done.sentence)
        if public not in self.table:
            self._take_up(registry)
        state = self.table[public].state
        return m.Enrolled.model_validate(
            {
                **self._facts(),
                **self._captioning(done.key.role),
                "state": state.value,
                "role": done.key.role,
                "key_expires": microseconds(done.key.not_after),
            }
        )

    def _captioning(self, role: m.Role) -> Mapping[str, object]:
        spec = self._rules.spec
        if role is not m.Role.WORKER or spec is None:
            return {}
        return {"engine": spec.engine, "model": spec.model.name if spec.model is not None else ""}

    def _refused(self, code: str, sentence: str) -> m.Enrolled:
        return m.Enrolled.model_validate({**self._facts(), "state": "refused", "code": code, "sentence": sentence})

    def _facts(self) -> Mapping[str, object]:
        return {"now": microseconds(time.time()), "dataset": self._rules.dataset}


def microseconds(at: float | None) -> int:
    """A time as messages carry it; 0 for none."""
    return 0 if at is None else min(max(int(at * MICROSECONDS), 1), MAX_MICROSECONDS)


def closed(before: KeyTable, after: KeyTable) -> frozenset[bytes]:
    """The keys that were admitted and are not any more."""
    return frozenset(public for public in before if before.admitted(public) and not after.admitted(public))
