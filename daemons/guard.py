"""The broker's guard: what keys may cost, who is cut for what, and one count for everything that was refused.

Knows connections, limits and counters; must not know what messages mean, nor how a key is suspended: it says that one
should be.

Invariants: nothing is refused, dropped or cut without a count under a name of its own; each limit is told to its key
before the key is cut, and a key is cut before it is suspended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from cfbus import logs
from cfbus.bus import messages as m
from cfbus.bus.auth import Authenticator, KeyEntry, Reason
from cfbus.bus.connections import PeerWatch
from cfbus.bus.keys import fingerprint
from cfbus.bus.messages import Role
from cfbus.bus.sockets import Inbound
from cfbus.config_sections import KeyLimits
from cfbus.core.effects import Effect, Note
from cfbus.core.limits import Budget, Limits, Over, Ruling, Traffic
from cfbus.core.state import Counts

SILENT_SECONDS = 60.0
"""A connection to the bus on which nothing was said for so long is cut: who is on the bus has a heartbeat."""
ALARM_AGAIN_SECONDS = 3600.0
SUSPENDED_ROLES = frozenset({Role.WORKER, Role.FEEDER})
"""Others are cut, never suspended: a maintainer's own keys must not be locked out by a mistake in a script."""
RETRY_SECONDS = 5.0
_SENTENCES = {
    Over.CONNECTIONS: "This key has as many connections as one key may have.",
    Over.HANDSHAKES: "This key connects more often than one key may.",
    Over.MESSAGES: "This key sends more messages a second than one key may.",
    Over.BYTES: "This key sends more bytes a second than one key may.",
}

_REFUSED_ALL_THE_TIME = "This key sends what is no message, or what it may not send, all the time."
_CHEAP_TO_CAUSE = frozenset({"message.refused", "result.refused", "item.failed"})
LINES_PER_SECOND = 20.0


@dataclass(slots=True)
class Judged:
    """What is to be done with a message that was not taken."""

    error: m.Error | None = None
    suspend: str = ""


@dataclass(slots=True)
class Alarms:
    """What a look at the doors found: for the log and the activity, and keys to be suspended with the reason."""

    notes: list[Note] = field(default_factory=list)
    suspend: dict[bytes, str] = field(default_factory=dict)


def limits_of(section: KeyLimits) -> Limits:
    """The limits out of the configuration."""
    return Limits(
        connections=section.connections,
        handshakes_per_minute=section.handshakes_per_minute,
        leases=section.leases,
        messages_per_second=section.messages_per_second,
        bytes_per_second=section.mib_per_second << 20,
    )


class Guard:
    """Watches the broker's two doors."""

    def __init__(
        self, limits: Limits, door: Authenticator, bus: PeerWatch, stats: PeerWatch, dropped: Counter[str], room: int
    ) -> None:
        self._limits = limits
        self._door, self._bus, self._stats = door, bus, stats
        self._dropped = dropped
        self._room = room
        self._traffic = Traffic(limits)
        self._noticed: Counter[str] = Counter()
        self._alarmed: dict[bytes, float] = {}
        self._lines = Budget(LINES_PER_SECOND, 10.0, 0.0)
        self._log = logs.get_logger()

    def change(self, limits: Limits) -> None:
        """These hold from now on. A connection that was let in stays, also where it would now be one too many."""
        self._limits = limits
        self._traffic.change(limits)
        self._door.limit(limits.handshakes_per_minute)

    # ------------------------------------------------------------------ each message

    def delivered(self, batch: list[Inbound]) -> None:
        """These messages were taken from the bus; before any of them is judged."""
        self._bus.delivered(batch, self._limits.connections)

    def judge(self, inbound: Inbound, entry: KeyEntry, now: float) -> Judged | None:
        """``None`` for a message to be taken."""
        if entry.role is Role.WRITER:
            return None  # the store's own: slowing it down would slow everybody down
        over: Over | None
        if self._bus.is_extra(inbound.fd):
            over, ruling = Over.CONNECTIONS, self._traffic.refuse(entry.public, now)
        else:
            ruling, over = self._traffic.judge(entry.public, sum(map(len, inbound.frames)), now)
        if over is None:
            return None
        return self._limited(ruling, over, entry)

    def refused(self, entry: KeyEntry, effects: list[Effect], now: float) -> Judged | None:
        """What the core made of a message; ``None`` when that is to be carried out. Who is refused time and again
        is answered once a second, then cut."""
        if entry.role is Role.WRITER or not any(
            isinstance(effect, Note) and effect.event == "message.refused" for effect in effects
        ):
            return None
        ruling = self._traffic.refuse(entry.public, now)
        return None if ruling is Ruling.REFUSE else self._carry_out(ruling, _REFUSED_ALL_THE_TIME, entry)

    def worth_a_line(self, note: Note, now: float) -> bool:
        """Whether a log should have a line of it: what a stranger can cause as often as it likes, now and then."""
        return note.event not in _CHEAP_TO_CAUSE or self._lines.take(1, now)

    def said_bye(self, inbound: Inbound) -> None:
        """The end of its connection is no surprise."""
        self._bus.said_farewell(inbound.fd)

    def _limited(self, ruling: Ruling, over: Over, entry: KeyEntry) -> Judged:
        self._noticed[f"limit.{over}"] += 1
        if ruling is not Ruling.REFUSE:
            return self._carry_out(ruling, _SENTENCES[over], entry)
        self._log.warning("limit.passed", limit=over.value, key=fingerprint(entry.public), name=entry.name)
        return Judged(m.Error(code="limit", sentence=_SENTENCES[over], retry_after=RETRY_SECONDS))

    def _carry_out(self, ruling: Ruling, sentence: str, entry: KeyEntry) -> Judged:
        if ruling in (Ruling.DROP, Ruling.REFUSE):
            return Judged()
        if ruling is Ruling.SUSPEND and entry.role in SUSPENDED_ROLES:
            self._noticed["key.suspended"] += 1
            return Judged(suspend=sentence)
        self._noticed["cut.limit"] += len(self._bus.cut_keys(lambda public: public != entry.public))
        self._log.warning("peers.cut", why=sentence, key=fingerprint(entry.public), name=entry.name)
        return Judged()

    # ------------------------------------------------------------------ now and then

    def look(self, now: float, table: Mapping[bytes, KeyEntry]) -> Alarms:
        """Cut whom no message can tell of, and say what else is odd. Every few seconds will do."""
        alarms = Alarms()
        self._cut("endless", self._bus.cut_endless() + self._stats.cut_endless())
        self._cut("silent", self._bus.cut_silent(SILENT_SECONDS, self._room))
        self._cut("connections", self._bus.cut_extra())
        for public, times in self._door.too_often().items():
            entry = table.get(public)
            if entry is not None and entry.role is not Role.WRITER:
                self._noticed["limit.handshakes"] += times
                ruling = self._traffic.refuse(public, now, times)
                if suspended := self._carry_out(ruling, _SENTENCES[Over.HANDSHAKES], entry).suspend:
                    alarms.suspend[public] = suspended
        alarms.notes += self._two_hosts(now, table)
        return alarms

    @property
    def crowded(self) -> bool:
        """Whether descriptors may run out; then ``look`` soon again."""
        return self._bus.crowded(self._room)

    def _cut(self, why: str, count: int) -> None:
        if count:
            self._noticed[f"cut.{why}"] += count
            self._log.warning("peers.cut", count=count, why=why)

    def _two_hosts(self, now: float, table: Mapping[bytes, KeyEntry]) -> list[Note]:
        notes = []
        for public, hosts in self._bus.hosts().items():
            lately = now - self._alarmed.get(public, -ALARM_AGAIN_SECONDS) < ALARM_AGAIN_SECONDS
            if len(hosts) < 2 or lately or (entry := table.get(public)) is None:
                continue
            self._alarmed[public] = now
            self._noticed["key.two-hosts"] += 1
            mark = fingerprint(public)
            # Where contributors are is for the broker's own log, not for all who watch.
            self._log.warning("key.hosts", key=mark, name=entry.name, hosts=sorted(hosts))
            notes.append(Note("key.two-hosts", (("key", mark), ("name", entry.name), ("hosts", len(hosts)))))
        return notes

    # ------------------------------------------------------------------ counts

    def counts(self, core: Counts) -> dict[str, int]:
        """Everything that was refused, dropped or cut so far, by name."""
        found = Counter(self._noticed)
        for watch in (self._bus, self._stats):
            watch.follow()
            found.update(watch.noticed)
        families: dict[str, Mapping[str, int]] = {
            "door": {reason: count for reason, count in self._door.counts().items() if reason is not Reason.ADMITTED},
            "dropped": self._dropped,
            "message": core.refused_messages,
            "noticed": core.noticed,
        }
        for family, counts in families.items():
            for name, count in counts.items():
                found[f"{family}.{name}" if family != "noticed" else name] += count
        return {name: count for name, count in sorted(found.items()) if count}
