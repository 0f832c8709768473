"""A status as the broker publishes it, for tests of those who show it."""

from __future__ import annotations

from typing import Any

from cfbus.core.snapshot import Status

_QUIET: dict[str, Any] = {
    "dataset": "pictures", "store_id": "0" * 16, "generation": 1, "items": 1000, "done": 0, "leased": 0, "captions": 0,
    "dead_letters": 0, "to_try_again": 0, "passes": 1, "listing": False, "paused": False, "finished": False,
    "sealed": False, "position": 0, "rate": 0.0, "writer": "open", "why": "", "problem": "", "workers": 1, "feeders": 0,
    "workers_starved": 0, "leases_granted": 0, "leases_ended": 0, "backups_granted": 0, "results_refused": 0,
    "messages_refused": 0, "duplicates": 0, "rate_now": 0.0, "rate_quarter": 0.0,
    "unsealed_bytes": 0, "unacked_bytes": 0, "window": 1 << 20,
}  # fmt: skip


def a_status(**facts: Any) -> Status:
    """A run of 1,000 images at its beginning, but for these facts."""
    return Status.model_validate(_QUIET | facts)
