"""What a storm left: the tables compared with the dataset, and what it took to get there.

In columns, for a million rows would be too many objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds


@dataclass(frozen=True)
class Verdict:
    """Counts of items where nothing else is said."""

    items: int
    lost: int
    doubled: int
    wrong: int
    strikes: Counter[str]
    seconds: float
    captioned: int
    sent_again: int
    duplicates: int
    leases_granted: int
    leases_ended: int
    left_over: Sequence[str]

    @property
    def problem(self) -> str:
        """What is not as it must be; empty if all is."""
        found = {"lost": self.lost, "doubled": self.doubled, "captions of other items": self.wrong}
        problems = [f"{count} {what}" for what, count in found.items() if count]
        if self.left_over:
            problems.append(f"{len(self.left_over)} results left over, such as {self.left_over[0]}")
        return ", ".join(problems)

    @property
    def wasted(self) -> float:
        """Of what was captioned, the share that is in no table."""
        return 1 - self.items / max(self.captioned, 1)

    def told(self) -> str:
        """For people."""
        strikes = ", ".join(f"{what} {count}" for what, count in sorted(self.strikes.items()))
        return "\n".join(
            [
                f"  {self.items:,} items in {self.seconds:,.0f} s; strikes: {strikes}",
                f"  leases granted {self.leases_granted:,}, seen to end {self.leases_ended:,}",
                f"  results sent again {self.sent_again:,}, duplicates dropped {self.duplicates:,} (as far as told)",
                f"  captioned {self.captioned:,}: {self.wasted:.1%} of the work wasted",
                f"  lost {self.lost}, doubled {self.doubled}, captions of other items {self.wrong}",
            ]
        )


def compare(
    store: Path,
    items: int,
    *,
    strikes: Counter[str],
    seconds: float,
    captioned: int,
    sent_again: int,
    duplicates: int,
    leases_granted: int,
    leases_ended: int,
    left_over: Sequence[str],
) -> Verdict:
    """Look at ``captions/*.parquet`` for made-up items."""
    table = ds.dataset(store / "captions", format="parquet").to_table(columns=["item_key", "caption"])
    keys = table["item_key"].combine_chunks()
    distinct = pc.unique(keys)
    wanted = pa.array([f"item-{number:08d}" for number in range(items)])
    known = pc.sum(pc.is_in(wanted, value_set=distinct)).as_py() or 0
    starts = pc.binary_join_element_wise("caption of ", keys, ":", "")
    right = pc.equal(pc.utf8_slice_codeunits(table["caption"], 0, len("caption of item-00000000:")), starts)
    return Verdict(
        items=items,
        lost=items - known,
        doubled=len(keys) - len(distinct),
        wrong=len(distinct) - known + len(keys) - (pc.sum(right).as_py() or 0),
        strikes=strikes,
        seconds=seconds,
        captioned=captioned,
        sent_again=sent_again,
        duplicates=duplicates,
        leases_granted=leases_granted,
        leases_ended=leases_ended,
        left_over=left_over,
    )
