"""The port of places where a dataset's tables and pictures lie: a disk, or the hub.

What it is for: `TableSet`, which `HuggingFaceSource` lists and reads without knowing which of both it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cfbus.sources.base import Known, LeftOut, ListedShard
from cfbus.sources.table_files import Bytes
from cfbus.sources.table_locators import Origin


@dataclass(frozen=True, slots=True)
class TableAt:
    """A table of a set: the name of its shard, how people call it, and how it is opened.

    ``open`` raises ReadError, or OSError.
    """

    set_name: str
    name: str
    shown: str
    origin: Origin
    open: Callable[[], Bytes]


class TableSet(Protocol):
    @property
    def shown(self) -> str:
        """What people call it."""

    @property
    def buffer_bytes(self) -> int:
        """How much of a table's column is asked for at once."""

    @property
    def readers(self) -> int:
        """See `Source.readers`."""

    def problem(self) -> str:
        """Why it cannot be read here, as a sentence; empty when it can."""

    def tables(self, known: Known, left_out: LeftOut) -> Iterator[TableAt]:
        """All tables that count. Raises SourceError."""

    def pictures(self, known: Known, left_out: LeftOut) -> Iterator[ListedShard]:
        """New pictures, of a set without tables. Raises SourceError where there are none, new or known."""

    def hint(self) -> str:
        """What may be the matter where there is neither."""

    def has(self, shard: str, origin: Origin) -> bool:
        """Whether a shard of this name and origin would be of this set."""

    def open(self, shard: str, origin: Origin, size: int) -> Bytes:
        """The table of a shard. Raises ReadError."""

    def picture(self, shard: str, path: str, origin: Origin, *, beside: bool) -> bytes:
        """A picture by its path in the set; ``beside``: in the folder of the shard's table. Raises ReadError."""

    def close(self) -> None: ...
