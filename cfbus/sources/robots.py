"""What a server's ``X-Robots-Tag`` forbids those who train models.

It must not know how headers come in, nor what is done about it.

A header is a list of directives with commas between them; ``name:`` before some of them says whom they are for. Those
for nobody in particular, and those for us, count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

_VALUED: Final = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives that have a colon of their own."""


def forbidden_by(headers: Iterable[str], disallowed: Collection[str], agent: str) -> str:
    """The first directive for us that is one of ``disallowed``; empty if none is. ``agent`` is our User-Agent."""
    ours = agent.partition("/")[0].strip().lower()
    wanted = {name.strip().lower() for name in disallowed}
    said = (directive for header in headers for whom, directive in _directives(header) if whom in ("", "*", ours))
    return next((directive for directive in said if directive in wanted), "")


def _directives(header: str) -> Iterator[tuple[str, str]]:
    """Whom it is for (empty: all), and the directive; both in small letters."""
    whom = ""
    for part in header.lower().split(","):
        name, colon, rest = part.partition(":")
        if colon and name.strip() not in _VALUED:
            whom, part = name.strip(), rest
        yield whom, part.strip()
