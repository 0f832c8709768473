"""What the workload ``applied`` changes of what counts, and which rows count after that.

Told here without the product's own words for it, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from crash.rig import WriterRig
from crash.sample import PARTS, PASSES, SHARDS, Part, Row, contributor_of

from cfbus.store.manifest_rows import RedoFacts, Tombstone

REQUEUED = np.array([[0, 4, 9]], np.int64)
"""Captioned again by the contributor whose rows are revoked after that: then the rows from before count again."""
REVOKED = np.array([[0, 0, 4], [0, 10, 14], [0, 22, 30], [1, 7, 8]], np.int64)
"""Captioned again for the tombstone, and two items that it takes nothing of: there the later rows replace others."""
WHO = "c-1"
IMAGE = ("birds-00000", 21)
"""Taken down: no row of it counts, whenever it comes."""
REDONE = (
    Part(16, 3, 0, 4, 9),
    Part(17, 4, 0, 0, 4),
    Part(19, 4, 0, 10, 14),
    Part(20, 4, 0, 22, 30),
    Part(23, 4, 1, 7, 8, failed=True),
)
ALL = (*PARTS, *REDONE)


def owners(parts: tuple[Part, ...]) -> dict[tuple[int, str, int], Part]:
    """Which part each item of a pass comes from: the first that has it."""
    found: dict[tuple[int, str, int], Part] = {}
    for part in parts:
        for index in range(part.start, part.end):
            found.setdefault((part.pass_number, SHARDS[part.shard][0], index), part)
    return found


_OWNERS = owners(ALL)
ROWS: dict[Row, Part] = {row: part for part in ALL for row in part.rows() if _OWNERS[row[2], row[0], row[1]] is part}
"""All rows that there will ever be."""


def requeue(writer: WriterRig) -> None:
    """The third pass is there."""
    if len(writer.manifest.passes()) < 3:
        writer.change((PASSES[0], RedoFacts("requeue", "mia", "3", 1), REQUEUED), None)


def revoke(writer: WriterRig) -> None:
    """The first tombstone is there, over all that is sealed of somebody, and the fourth pass that makes it good."""
    if not writer.manifest.tombstones():
        until = writer.manifest.last_position()
        tables = ("captions", "failures")
        stone = Tombstone(1, (("contributor_id", WHO),), tables, until, 0, "revoke-rows", "mia", "1", 1)
        writer.change((PASSES[0], RedoFacts("revoke-rows", "mia", "1", 1, tombstone=1), REVOKED), stone)


def take_down(writer: WriterRig) -> None:
    """The second tombstone is there."""
    if len(writer.manifest.tombstones()) < 2:
        columns = (("item_key", f"{IMAGE[0]}/{IMAGE[1]}.jpg"),)
        stone = Tombstone(2, columns, ("captions", "failures"), 1 << 62, 0, "takedown", "mia", "2", 1)
        writer.change(None, stone)


def taken(row: Row, position: int, stones: Mapping[int, int]) -> set[int]:
    """The tombstones, of these with the positions that they end at, that take a row out."""
    mine = (contributor_of(ROWS[row]) == WHO, row[:2] == IMAGE)
    return {number for number, until in stones.items() if mine[number - 1] and position <= until}


def counting(rows: Mapping[Row, int], stones: Mapping[int, int]) -> set[Row]:
    """Of rows with their positions those that a reader is to get: of each item and slot the newest that is not taken
    out."""
    highest: dict[tuple[str, int, str], Row] = {}
    for row in sorted(rows, key=lambda row: row[2]):
        if not taken(row, rows[row], stones):
            highest[row[0], row[1], row[3]] = row
    return set(highest.values())
