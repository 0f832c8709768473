"""What a number of seeds must have seen, or they prove less than they seem to."""

from __future__ import annotations

from collections import Counter

LINK_MESSAGES = (
    "HELLO", "WELCOME", "HEARTBEAT", "LEASE", "GRANT", "WAIT", "RENEW", "RENEWED", "RESULT", "COMMIT", "SINCE", "STATE",
    "ACK", "RESEND", "FAILED", "RELEASE", "INDEX", "LISTED", "TASK", "DONE", "DRAIN", "BYE",
)  # fmt: skip
RARE = ("DRAIN", "BYE")
"""Messages of which a few hundred seeds send too few to have each lost, doubled and late."""
EVENTS = (
    "ack: stored", "ack: duplicate", "ack: refused", "backup granted", "late result of an ended lease", "lease expired",
    "spool replayed", "disk full", "window closed", "rejected", "slot added", "note: item.failed", "task asked anew",
    "ledger lost", "ledger kept", "crash: broker", "crash: writer", "crash: worker", "crash: broker with live leases",
    "crash: broker with undelivered dead letters", "crash: broker between ledger and send",
    "crash: writer between effects", "crash: worker between effects", "crash: worker with unacked results",
    "crash: writer with staged results", "crash: writer between commit and COMMIT", "writer stalled with leases out",
    "link broken: worker", "link broken: writer", "cut up: worker", "cut down: worker", "cut up: writer",
    "cut down: writer", "drain", "drain: at once", "left drained", "left in a hurry", "changed nothing: FAILED",
    "changed nothing: RELEASE", "forged: slots", "forged: rows", "forged: utf8", "forged: outside", "forged: foreign",
    "forged: unknown", "forged: origin", "forged: crc", "forged: change", "state of several pages",
)  # fmt: skip


def required() -> list[str]:
    """Everything that has to be seen."""
    messages = [f"{what}: {tag}" for tag in LINK_MESSAGES for what in ("lost", "doubled", "late") if tag not in RARE]
    return [*messages, *EVENTS]


def unseen(seen: Counter[str]) -> list[str]:
    """What has to be seen and was not."""
    return [name for name in required() if not seen[name]]
