"""Workers of very different speed end together, and little is captioned for nothing."""

from __future__ import annotations

from pathlib import Path

from processes import unequal
from processes.support import Nursery
from processes.tables import exact_scripted

SECONDS = 12.0
MAX_WASTE = 0.10
STILL_AT_WORK = 0.5
"""Wide, for a worker may stand still for some seconds; with equal shares the first would stop in the first tenth. How
good it is exactly is simulated (``simulation/test_tail``)."""


def test_all_work_until_the_end(nursery: Nursery, tmp_path: Path) -> None:
    shape = unequal.run(
        nursery, tmp_path / "bus", SECONDS, lambda store, items: exact_scripted(store, items, ["caption"])
    )
    told = "\n".join(shape.lines())
    assert sum(worker.items for worker in shape.workers) == shape.items, told
    # The slowest, which an equal share would keep busy for a minute, hands in its last result when the others do.
    assert shape.first_to_stop > STILL_AT_WORK, told
    assert 0 <= shape.waste < MAX_WASTE, told
