"""What an admin looks at is bounded: of a table of any size a little is in memory, and a little is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exports.conftest import Shop

from cfbus.exports.looking import SHOWN, look
from cfbus.store.amendments import Plan, Request
from cfbus.store.manifest_rows import SegmentRow
from cfbus.store.schema import SCHEMAS

FILES, ROWS, GROUP = 8, 25_000, 5_000
"""Files, rows in each, rows in a row group."""
DETAIL = 400
MOST_BYTES = 24 << 20


def letters(number: int) -> pa.Table:
    """Dead letters of a shard of their own, of each item one; each has a long text that no other has."""
    plain: dict[str, Any] = {
        "shard": [f"birds-{number:05}"] * ROWS, "item_index": range(ROWS), "revision": [1] * ROWS,
        "reason": ["undecodable" if index % 5 else "too-large-file" for index in range(ROWS)],
        "fault": ["item"] * ROWS, "who": [f"c-{index % 300}" for index in range(ROWS)],
        "detail": [f"{number} {index} ".ljust(DETAIL, "x") for index in range(ROWS)],
        "item_key": [f"{index}.jpg" for index in range(ROWS)], "attempts": [3] * ROWS,
        "commit_seq": [number + 1] * ROWS,
    }  # fmt: skip
    columns = [pa.array(plain[one.name], one.type) if one.name in plain else pa.nulls(ROWS, one.type)
               for one in SCHEMAS["failures"]]  # fmt: skip
    return pa.table(columns, schema=SCHEMAS["failures"])


@pytest.fixture
def many(empty_shop: Shop) -> Shop:
    """A store with many more dead letters than are to be in memory."""
    empty_shop.manifest.add_pass(["short"])
    folder = empty_shop.root / "failures"
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        path = folder / f"{number + 1:016d}.parquet"
        pq.write_table(letters(number), path, row_group_size=GROUP)
        name = str(path.relative_to(empty_shop.root))
        segment = SegmentRow(number + 1, number + 1, (name,), 0, ROWS, path.stat().st_size, 1, {})
        empty_shop.manifest.add_segment(segment, np.array([[1, number, 0, ROWS]], np.int64))
    return empty_shop


def ask(shop: Shop, **arguments: str) -> Plan:
    return look(shop.store, Request("dead-letters", arguments, ("short",), "1" * 16, "mia", 7))


def test_the_first_are_shown_and_all_are_counted(many: Shop) -> None:
    plan = ask(many)
    assert plan.facts == (("dead_letters", str(FILES * ROWS)),)
    assert [row[:3] for row in plan.rows] == [("birds-00000", str(index), f"{index}.jpg") for index in range(SHOWN)]
    plan = ask(many, reason="too-large-file", shard="birds-00002")
    assert plan.facts == (("dead_letters", str(ROWS // 5)),)
    assert [row[:2] for row in plan.rows] == [("birds-00002", str(5 * index)) for index in range(SHOWN)]


def test_they_are_counted_by_what_has_few_values(many: Shop) -> None:
    plan = ask(many, by="reason")
    assert plan.rows == (("undecodable", str(FILES * ROWS * 4 // 5)), ("too-large-file", str(FILES * ROWS // 5)))
    plan = ask(many, by="who", fault="item")
    assert plan.facts == (("dead_letters", str(FILES * ROWS)), ("shown", f"{SHOWN} of 300"))
    assert len(plan.rows) == SHOWN
    assert ask(many, by="reason", fault="network").rows == ()


MEASURED = """
import sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from cfbus.exports.looking import look
from cfbus.store.amendments import Request
from cfbus.store.folder import Store
store = Store.peek(Path(sys.argv[1]))
for number, arguments in enumerate(({"by": "fault"}, {}, {"reason": "too-large-file"}, {"by": "who"})):
    if number == 1:
        tracemalloc.start()  # not of what is imported
    look(store, Request("dead-letters", arguments, ("short",), "1" * 16, "mia", 7))
print(pa.default_memory_pool().max_memory() + tracemalloc.get_traced_memory()[1])
"""


def test_little_of_them_is_in_memory(many: Shop) -> None:
    command = [sys.executable, "-P", "-c", MEASURED, str(many.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < MOST_BYTES


def test_a_store_without_any_says_so(empty_shop: Shop, tmp_path: Path) -> None:
    empty_shop.manifest.add_pass(["short"])
    assert ask(empty_shop) == Plan(facts=(("dead_letters", "0"),), columns=ask(empty_shop).columns)
    assert ask(empty_shop, by="reason").rows == ()
