"""What admins ask and invites are for: verbs about the run are answered here, those about keys go to the registry.

Part of the broker's core. Which verbs the registry knows is the registry's business; that only admins and invites come
this far is the table ``MAY_SEND``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.core.effects import AskRegistry, Effect, EnrolKey, Note, NoteCall, Peer, Send
from cfbus.core.state import PeerState
from cfbus.core.watching import status

if TYPE_CHECKING:
    from cfbus.core.broker import Broker

OWN_VERBS = frozenset({"status", "pause", "resume"})


class Asking:
    """Answers to ADMIN and ENROL."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def admin(self, known: PeerState, message: m.Admin, now: float) -> list[Effect]:
        """A call; each has a line in the audit log before its answer is sent."""
        called = Note("admin.call", (("verb", message.verb), ("who", known.name)))
        if message.verb not in OWN_VERBS:
            return [called, AskRegistry(known.peer, known.name, message)]
        broker = self._broker
        if message.verb == "status":
            view = status(broker, now)
            facts = tuple((name, str(value)[:256]) for name, value in view.model_dump().items())
        else:
            broker.paused = message.verb == "pause"
            facts = (("paused", "yes" if broker.paused else "no"),)
        reply = m.Reply(request=message.request, facts=facts)
        return [called, NoteCall(known.peer, known.name, message), Send(known.peer.connection, reply)]

    def enrol(self, peer: Peer, message: m.Enrol) -> list[Effect]:
        """A key that wants to be let in. No HELLO goes before it: the connection is an invite's, not a peer's."""
        return [EnrolKey(peer, message)]

    def closed(self, keys: frozenset[str], now: float) -> list[Effect]:
        """Keys (fingerprints) are not admitted any more: what they leased is free, whether they are here or not."""
        broker = self._broker
        for lease in [lease for lease in broker.leases.current() if lease.row.key in keys]:
            broker.end_lease(lease)
        return broker.settle([], now)
