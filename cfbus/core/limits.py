"""What one key may cost the broker: budgets, and what becomes of those who exceed them.

Pure bookkeeping: knows keys as bytes and time as an argument; nothing of messages, sockets or the registry.

Invariants: who stays within the limits is never refused; nothing here grows with what a stranger sends, for only keys
that were let in have an account. Each step is told to those who look: a refusal, then a cut, then a suspension.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

REFUSALS_BEFORE_CUT = 200
"""So many refusals, none of them a minute after the one before, and the key's connections are cut."""
CALM_SECONDS = 60.0
CUTS_BEFORE_SUSPENSION = 3
"""So many cuts within ``CUTS_SECONDS``, and a worker's or feeder's key is suspended."""
CUTS_SECONDS = 600.0
TELL_SECONDS = 1.0
"""A key is told at most so often that it is over a limit: answers must not become a flood of their own."""
BURST_SECONDS = 2.0
"""A key that was quiet may take so many seconds' worth at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one key may have and do; from the configuration."""

    connections: int = 256
    handshakes_per_minute: int = 1200
    leases: int = 8192
    messages_per_second: int = 20_000
    bytes_per_second: int = 512 * 1024 * 1024


class Over(StrEnum):
    """Which limit was passed; what the counters are kept by."""

    CONNECTIONS = "connections"
    HANDSHAKES = "handshakes"
    MESSAGES = "messages"
    BYTES = "bytes"


class Ruling(StrEnum):
    """What is to be done with a message."""

    TAKE = "take"
    REFUSE = "refuse"
    DROP = "drop"
    CUT = "cut"
    SUSPEND = "suspend"


class Budget:
    """So much a second, and ``burst`` seconds' worth at once."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._most = rate, rate * burst
        self._left, self._at = self._most, now

    def change(self, rate: float, burst: float) -> None:
        """Another rate from now on; what was taken stays taken."""
        self._rate, self._most = rate, rate * burst
        self._left = min(self._left, self._most)

    def take(self, amount: float, now: float) -> bool:
        """Whether there was so much left. What is larger than the most passes when nothing is owed."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < min(amount, self._most):
            return False
        self._left -= amount
        return True


@dataclass(slots=True)
class _Account:
    messages: Budget
    bytes: Budget
    refused: int = 0
    refused_at: float = 0.0
    told_at: float = -TELL_SECONDS
    cuts: deque[float] = field(default_factory=lambda: deque(maxlen=CUTS_BEFORE_SUSPENSION))


class Traffic:
    """What each key said lately."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: dict[bytes, _Account] = {}

    def change(self, limits: Limits) -> None:
        """Other limits from now on; who was refused before is remembered."""
        self._limits = limits
        for account in self._accounts.values():
            account.messages.change(limits.messages_per_second, BURST_SECONDS)
            account.bytes.change(limits.bytes_per_second, BURST_SECONDS)

    def judge(self, key: bytes, size: int, now: float) -> tuple[Ruling, Over | None]:
        """A message of ``size`` bytes came from this key."""
        account = self._account(key, now)
        if not account.messages.take(1, now):
            return self._refuse(account, now, 1), Over.MESSAGES
        if not account.bytes.take(size, now):
            return self._refuse(account, now, 1), Over.BYTES
        return Ruling.TAKE, None

    def refuse(self, key: bytes, now: float, times: int = 1) -> Ruling:
        """This key exceeded a limit that is counted elsewhere, so often since it was last said."""
        return self._refuse(self._account(key, now), now, times)

    def _refuse(self, account: _Account, now: float, times: int) -> Ruling:
        if now - account.refused_at > CALM_SECONDS:
            account.refused = 0
        account.refused_at = now
        account.refused += times
        if account.refused >= REFUSALS_BEFORE_CUT:
            return self._cut(account, now)
        if now - account.told_at < TELL_SECONDS:
            return Ruling.DROP
        account.told_at = now
        return Ruling.REFUSE

    def _cut(self, account: _Account, now: float) -> Ruling:
        account.refused = 0
        account.cuts.append(now)
        lately = sum(now - at <= CUTS_SECONDS for at in account.cuts)
        if lately < CUTS_BEFORE_SUSPENSION:
            return Ruling.CUT
        account.cuts.clear()
        return Ruling.SUSPEND

    def _account(self, key: bytes, now: float) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            limits = self._limits
            account = self._accounts[key] = _Account(
                Budget(limits.messages_per_second, BURST_SECONDS, now),
                Budget(limits.bytes_per_second, BURST_SECONDS, now),
            )
        return account
