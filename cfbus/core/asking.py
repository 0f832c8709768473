"""What admins ask and invites are for: verbs about the run are answered here, those about keys go to the registry.

Part of the broker's core. Which verbs the registry knows is the registry's business; that only admins and invites come
this far is the table ``MAY_SEND``'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.fields import PAGE_BYTES
from cfbus.core.effects import AskConfig, AskLedger, AskRegistry, Effect, EnrolKey, Note, NoteCall, Peer, Send
from cfbus.core.pages import pages
from cfbus.core.state import PeerState
from cfbus.core.told import Told
from cfbus.core.verbs import READS, VERBS

if TYPE_CHECKING:
    from cfbus.core.broker import Broker

CONFIG_VERBS = frozenset({"reload", "config-show", "config-diff"})
"""Those that need the broker's file; its shell answers them."""
LEDGER_VERB = "ledger"
"""Needs the ledger's file; the broker's shell answers it, too."""
CELL_CHARS = 1024
OUTCOME_CHARS = 200
LEAST_ROW_BYTES = PAGE_BYTES // m.MAX_ROWS + 1
"""What a row counts at least, so that a page never has more rows than a message."""


class Asking:
    """Answers to ADMIN and ENROL."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def admin(self, known: PeerState, message: m.Admin, now: float) -> list[Effect]:
        """A call; each has a line in the audit log before its answer is sent."""
        called = Note("admin.call", (("verb", message.verb), ("who", known.name)))
        if message.verb in CONFIG_VERBS:
            return [called, AskConfig(known.peer, known.name, message)]
        if message.verb == LEDGER_VERB:
            return [called, AskLedger(known.peer, known.name, message)]
        if message.verb not in VERBS:
            return [called, AskRegistry(known.peer, known.name, message)]
        perform, takes = VERBS[message.verb]
        arguments = dict(message.arguments)
        odd = sorted(set(arguments) - takes)
        if odd:
            told = Told(problem=f"{message.verb} takes no {odd[0]!r}.")
        elif message.page and message.verb not in READS:
            told = Told(problem=f"{message.verb} has no further pages.")
        else:
            told = self._given(perform(self._broker, arguments, now), known)
        return [called, *answered(known.peer, known.name, message, told)]

    def _given(self, told: Told, known: PeerState) -> Told:
        """With what the writer is to do on its way to it."""
        if told.task is None:
            return told
        who = known.peer.contributor
        task = told.task.model_copy(update={"arguments": (*told.task.arguments, ("who", who))})
        self._broker.amending.begun(task, who)
        return replace(told, effects=(*told.effects, *self._broker.catchup.give(task)))

    def enrol(self, peer: Peer, message: m.Enrol) -> list[Effect]:
        """A key that wants to be let in. No HELLO goes before it: the connection is an invite's, not a peer's."""
        return [EnrolKey(peer, message)]

    def closed(self, keys: frozenset[str], now: float) -> list[Effect]:
        """Keys (fingerprints) are not admitted any more: what they leased is free, whether they are here or not."""
        broker = self._broker
        for lease in [lease for lease in broker.leases.current() if lease.row.key in keys]:
            broker.end_lease(lease)
        return broker.settle([], now)


def answered(peer: Peer, name: str, request: m.Admin, told: Told) -> list[Effect]:
    """The line in the audit log, what is to be done, and the page that was asked for."""
    outcome = f"refused: {told.problem}"[:OUTCOME_CHARS] if told.problem else "done"
    logged = [] if request.page else [NoteCall(peer, name, request, outcome)]
    return [*logged, *told.effects, Send(peer.connection, reply_of(request, told))]


def reply_of(request: m.Admin, told: Told) -> m.Reply:
    """The page of an answer that was asked for."""
    rows = [tuple(cell[:CELL_CHARS] for cell in row) for row in told.rows]
    groups = list(pages(rows, _row_bytes, PAGE_BYTES)) or [[]]
    number = min(request.page, len(groups) - 1)
    return m.Reply(
        request=request.request,
        facts=told.facts,
        columns=told.columns,
        rows=tuple(groups[number]),
        problem=told.problem[:1000],
        page=number,
        pages=len(groups),
    )


def _row_bytes(row: tuple[str, ...]) -> int:
    return max(sum(len(cell.encode("utf-8", "replace")) + 3 for cell in row) + 3, LEAST_ROW_BYTES)
