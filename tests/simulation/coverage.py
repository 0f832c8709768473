"""What a number of seeds must have seen, or they prove less than they seem to."""

from __future__ import annotations

from collections import Counter

LINK_MESSAGES = (
    "HELLO", "WELCOME", "CONFIG", "APPLIED", "HEARTBEAT", "LEASE", "GRANT", "WAIT", "RENEW", "RENEWED", "RESULT",
    "COMMIT", "SINCE", "STATE", "ACK", "RESEND", "FAILED", "RELEASE", "INDEX", "LISTED", "TASK", "DONE", "DRAIN",
    "UNDRAIN", "BYE",
)  # fmt: skip
RARE = ("DRAIN", "UNDRAIN", "BYE")
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
    "reload: prompts", "reload: sizes", "reload: slot", "reload: same", "reload: gone", "reload: refused",
    "reload: away", "config told again", "caption by an older generation", "generation goes on after a crash",
    "redo: requeue", "redo: close-pass", "ack: not wanted any more",
)  # fmt: skip
FED_MESSAGES = ("ALLOW", "ALLOWED", "FORBID")
FED_EVENTS = (
    "granted with a feeder", "fed", "fed: no lease", "feeder out of reach", "feeder drains", "feeder comes with leases",
    "drained by an admin", "undrained by an admin",
    "allow: renewal", "note: feeder.refused", "note: feeder.unreachable", "crash: feeder",
    "crash: feeder between effects", "link broken: feeder", "cut up: feeder", "cut down: feeder",
)  # fmt: skip
"""What seeds with feeders must have seen."""


def required(*, fed: bool) -> list[str]:
    """Everything that has to be seen; ``fed`` when there were seeds with feeders."""
    tags = [tag for tag in LINK_MESSAGES if tag not in RARE] + list(FED_MESSAGES * fed)
    messages = [f"{what}: {tag}" for tag in tags for what in ("lost", "doubled", "late")]
    return [*messages, *EVENTS, *(FED_EVENTS * fed)]


def unseen(seen: Counter[str], *, fed: bool) -> list[str]:
    """What has to be seen and was not."""
    return [name for name in required(fed=fed) if not seen[name]]
