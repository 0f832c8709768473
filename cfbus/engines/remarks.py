"""What may be remarked of a caption: nothing in it, cut off, a refusal, the same over and over.

Remarks are flags beside the text; the text itself is never touched. They are hints for who trains on captions and can
be wrong: nothing is decided by them.
"""

from __future__ import annotations

import re
from typing import Final

from cfbus.bus.columns import FLAGS

_REFUSAL: Final = re.compile(
    r"\s*[\"'*]*(?:"
    r"(?:i['\u2019]?m|i am)\s+(?:really\s+|very\s+)?(?:sorry|afraid|not able to|unable to)"
    r"|sorry,?\s+(?:but\s+)?i\b"
    r"|i\s+(?:cannot|can['\u2019]?t|can not|won['\u2019]?t|will not|must decline|apologi[sz]e)"
    r"|as an ai\b|unfortunately,?\s+i\s+(?:cannot|can['\u2019]?t|am unable)"
    r"|(?:抱歉|对不起|很抱歉)"
    r")",
    re.IGNORECASE,
)
_TAIL: Final = 600  # characters at the end that are looked at
_LEAST: Final = 60  # so many of them must be the same over and over
_LONGEST: Final = 120  # of what is repeated


def flags_of(text: str, finish_reason: str) -> int:
    """The remarks on a caption, as bits in the order of ``FLAGS``."""
    found = {
        "empty": not text.strip(),
        "truncated": finish_reason == "length",
        "refused": _REFUSAL.match(text) is not None,
        "repeated": repeats(text),
    }
    return sum(1 << FLAGS.index(name) for name, so in found.items() if so)


def repeats(text: str) -> bool:
    """Whether the end of a text is one thing at least four times in a row, as models do that have lost the thread."""
    tail = text.rstrip()[-_TAIL:]
    for size in range(1, min(_LONGEST, len(tail) // 4) + 1):
        unit = tail[-size:]
        times = max(4, -(-_LEAST // size))
        if tail.endswith(unit * times):
            return True
    return False
