"""The tars that a person's patterns stand for, on disks and behind addresses, by the names of their shards.

What it is for: `TarPatterns`.
What it must not know: what is in a tar, how an address is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cfbus.sources.base import LeftOut
from cfbus.sources.patterns import Patterns
from cfbus.sources.remote_files import RemoteFiles
from cfbus.sources.remote_patterns import RemotePatterns


class TarPatterns:
    """Paths first, then addresses. Raises SourceError for a pattern that makes no sense."""

    def __init__(self, patterns: Sequence[Path | str], files: RemoteFiles, *, follow_links: bool) -> None:
        self._local = Patterns([each for each in patterns if isinstance(each, Path)], follow_links=follow_links)
        away = [each for each in patterns if isinstance(each, str)]
        self._away = RemotePatterns(away, files, taken=self._local.labels)
        self.remote = bool(away)

    @property
    def shown(self) -> str:
        """The patterns for people."""
        names = [self._local.shown, *self._away.shown[:3]]
        more = len(self._away.shown) - 3
        return ", ".join(filter(None, names)) + (f" and {more} more" if more > 0 else "")

    def files(self, left_out: LeftOut) -> Iterator[tuple[str, Path | str]]:
        """Name and place of each. Raises SourceError."""
        for found in self._local.files(left_out):
            yield found.name, found.path
        for away in self._away.files(left_out):
            yield away.name, away.address
