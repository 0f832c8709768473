"""From a worker's "this item cannot be captioned" to a durable dead letter.

Part of the broker's core. A final verdict is a row like a caption: the broker sends it to the writer as a RESULT of
its own and keeps it until the COMMIT that names it, sending it again when the writer comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import checksum, encode_table
from cfbus.core.blame import DeadLetter
from cfbus.core.effects import Effect, Note, Send

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.leases import LeaseState
    from cfbus.core.state import PeerState


class Verdicts:
    """Dead letters on their way to the journal."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._number = 0
        self._undelivered: dict[int, tuple[m.Result, bytes]] = {}

    @property
    def undelivered(self) -> int:
        """Dead letters that the writer has not confirmed."""
        return len(self._undelivered)

    def failed(self, known: PeerState, message: m.Failed) -> list[Effect]:
        """A worker could not caption items of a lease."""
        broker = self._broker
        if not broker.ready:
            return []
        lease = broker.leases.get(message.lease)
        acked = m.Acked(instance=message.instance, number=message.number, status="stored")
        ack = Send(known.peer.connection, m.Ack(results=(acked,), window=broker.window()))
        if lease is None or not lease.current or lease.row.instance != message.instance:
            broker.counts.notice("failed.not-yours")
            return [ack]
        effects: list[Effect] = [ack]
        if lease.row.contributor != known.peer.contributor:
            broker.counts.notice("failed.not-yours")
        for item in message.items:
            if item.index in lease.undone and lease.row.contributor == known.peer.contributor:
                effects += self._accuse(lease, item, known.peer.contributor)
        if not lease.undone:
            broker.end_lease(lease)
        return effects

    def _accuse(self, lease: LeaseState, item: m.FailedItem, contributor: str) -> list[Effect]:
        broker, row = self._broker, lease.row
        broker.counts.notice("item.accused")
        place = (row.pass_number, row.shard, item.index)
        held_by_others = not broker.leases.give_back(lease, [(item.index, item.index + 1)])
        verdict = broker.claims.accuse(place, contributor, item.reason, item.fault, item.detail)
        if held_by_others and verdict is None:
            broker.claims.wait_for_holder(place)
        end = "given up" if verdict else "failed"
        broker.tell(row, item.index, item.index + 1, f"{end}: {item.reason}")
        note = Note(
            "item.failed",
            (("job", row.job), ("index", item.index), ("reason", item.reason), ("final", verdict is not None)),
        )
        return [note, *(self._deliver(lease, verdict) if verdict else [])]

    def _deliver(self, lease: LeaseState, verdict: DeadLetter) -> list[Effect]:
        row = lease.row
        table = build(
            "failures",
            1,
            {
                "reason": [verdict.reason],
                "fault": [verdict.fault],
                "attempts": [verdict.attempts],
                "detail": [verdict.detail],
                "who": [" ".join(verdict.who)],
            },
        )
        payload = encode_table(table)
        self._number += 1
        index = verdict.place[2]
        result = m.Result(
            lease=row.lease,
            instance=self._broker.rules.instance,
            number=self._number,
            ranges=((index, index + 1),),
            table="failures",
            size=len(payload),
            crc=checksum(payload),
            origin=m.Origin(
                contributor=row.contributor,
                key=row.key,
                job=row.job,
                pass_number=row.pass_number,
                shard=row.shard,
                received=self._broker.wall,
            ),
        )
        self._undelivered[self._number] = (result, payload)
        return self._send(self._number)

    def _send(self, number: int) -> list[Effect]:
        writer = self._broker.writer
        if writer is None or not writer.caught_up:
            return []
        result, payload = self._undelivered[number]
        return [Send(writer.connection, result, payload)]

    def settled(self, number: int) -> None:
        """The writer has it (or has a caption for the item, which is better)."""
        self._undelivered.pop(number, None)

    def send_again(self) -> list[Effect]:
        """All that the writer has not confirmed."""
        return [effect for number in self._undelivered for effect in self._send(number)]
