"""The bus's one retransmitter: a worker's results, from the moment they are made until they are settled.

Knows results and time, nothing of leases. Each is sent again after a time-out, or all at once when asked; what is
unsettled for a while goes to the spool, so that it survives the process.

Invariants: ``bytes`` is the size of all payloads kept; a result that is settled is never sent again; a FAILED is never
spooled (its claim is cheap to make again).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cfbus.bus import messages as m
from cfbus.core.effects import Effect, Note, Send, Spool, Unspool

BROKER = "broker"
SPOOL_SECONDS = 5.0


@dataclass(eq=False)
class _Kept:
    message: m.Result | m.Failed
    payload: bytes
    made_at: float
    resend_at: float
    spooled: bool

    def spool(self) -> list[Effect]:
        if self.spooled or not isinstance(self.message, m.Result):
            return []
        self.spooled = True
        return [Spool(self.message.instance, self.message.number, self.message, self.payload)]


class Retransmitter:
    """All that is not settled."""

    def __init__(self, resend_seconds: float) -> None:
        self._resend_seconds = resend_seconds
        self._kept: dict[tuple[str, int], _Kept] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, message: m.Result | m.Failed, payload: bytes, now: float, *, spooled: bool = False) -> None:
        """This was made now (or found in the spool)."""
        kept = _Kept(message, payload, now, now + self._resend_seconds, spooled)
        self._kept[message.instance, message.number] = kept
        self.bytes += len(payload)

    def settle(self, acked: m.Acked) -> tuple[m.Result | m.Failed | None, list[Effect]]:
        """It is stored, or was, or was refused for good. Returns what it was, if it was kept at all."""
        kept = self._kept.pop((acked.instance, acked.number), None)
        if kept is None:
            return None, []
        self.bytes -= len(kept.payload)
        if acked.status != "refused":
            return kept.message, [Unspool(acked.instance, acked.number)] if kept.spooled else []
        effects: list[Effect] = [Note("result.refused", (("why", acked.reason), ("number", acked.number)))]
        if isinstance(kept.message, m.Result):
            effects += kept.spool()
            effects.append(Unspool(acked.instance, acked.number, refused=acked.reason or "refused"))
        return kept.message, effects

    def send_all(self, now: float) -> list[Effect]:
        """All of it again."""
        return self._send(self._kept.values(), now)

    def send_due(self, now: float) -> list[Effect]:
        """Those again that were not settled for long."""
        return self._send([kept for kept in self._kept.values() if now >= kept.resend_at], now)

    def _send(self, again: Iterable[_Kept], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for kept in again:
            kept.resend_at = now + self._resend_seconds
            effects.append(Send(BROKER, kept.message, kept.payload))
        if effects:
            effects.append(Note("results.sent-again", (("count", len(effects)),)))
        return effects

    def spool_old(self, now: float) -> list[Effect]:
        """What waits for long goes to the spool."""
        old = [kept for kept in self._kept.values() if now - kept.made_at >= SPOOL_SECONDS]
        return [effect for kept in old for effect in kept.spool()]

    def spool_all(self) -> list[Effect]:
        """The process leaves: everything goes to the spool."""
        return [effect for kept in self._kept.values() for effect in kept.spool()]

    def deadlines(self, *, sending: bool) -> list[float]:
        """When something of this is due."""
        times = [kept.resend_at for kept in self._kept.values()] if sending else []
        waiting = (kept for kept in self._kept.values() if not kept.spooled and isinstance(kept.message, m.Result))
        return times + [kept.made_at + SPOOL_SECONDS for kept in waiting]
