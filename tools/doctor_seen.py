"""What `cfbus doctor` has seen: one line for each thing it looked at.

Knows nothing of what is looked at. Sentences may hold text from outside; whoever prints them shows what is hostile.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cfbus.errors import CfbusError, UsageError


class Verdict(StrEnum):
    """How something is: as it should be, worth a thought, or in the way."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing: what was looked at, how it is, and what to do. ``exit_code`` counts when it is bad."""

    what: str
    verdict: Verdict
    sentence: str
    hint: str = ""
    exit_code: int = 0


def ok(what: str, sentence: str) -> Seen:
    """As it should be."""
    return Seen(what, Verdict.OK, sentence)


def note(what: str, sentence: str, hint: str = "") -> Seen:
    """Worth a thought; nothing fails because of it alone."""
    return Seen(what, Verdict.NOTE, sentence, hint)


def bad(what: str, error: CfbusError) -> Seen:
    """In the way; with the error and the exit code that the daemon would end with."""
    return Seen(what, Verdict.BAD, error.message, error.hint, error.exit_code)


def wrong(what: str, sentence: str, hint: str = "", kind: type[CfbusError] = UsageError) -> Seen:
    """In the way, and told by nobody else."""
    return bad(what, kind(sentence, hint))
