from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.dataset as ds
from hypothesis import given
from hypothesis import strategies as st

from cfbus.store.revisions import condition, replaced

Row = tuple[str, int, str, int]


def table_of(rows: Iterable[Row], chunk: int = 1000) -> pa.Table:
    """Chunks with dictionaries of their own, as row groups have."""
    columns = ["shard", "item_index", "slot", "revision"]
    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(zip(columns, [words, pa.int64(), words, pa.int32()], strict=True))
    all_rows = list(rows)
    parts = [all_rows[at : at + chunk] for at in range(0, len(all_rows), chunk)] or [[]]
    made = [pa.table([pa.array([row[n] for row in part], schema.types[n]) for n in range(4)], schema) for part in parts]
    return pa.concat_tables(made)


rows = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 12), st.sampled_from(["short", "tags"]), st.integers(1, 4)),
    max_size=60,
)


@given(rows, st.integers(1, 9))
def test_of_each_key_the_highest_revision_counts(rows: list[Row], chunk: int) -> None:
    highest: dict[tuple[str, int, str], int] = {}
    for shard, item, slot, revision in rows:
        highest[shard, item, slot] = max(revision, highest.get((shard, item, slot), 0))
    table = table_of(rows, chunk)
    expected = [revision < highest[shard, item, slot] for shard, item, slot, revision in rows]
    assert replaced(table).tolist() == expected
    gone = condition(table)
    if gone is None:
        assert not any(expected)
        return
    kept = ds.dataset(table).to_table(filter=~gone).to_pylist()
    assert [tuple(row.values()) for row in kept] == [row for row, out in zip(rows, expected, strict=True) if not out]


def test_a_run_of_items_is_one_condition_however_long() -> None:
    again = [("a", item, "short", revision) for revision in (1, 2) for item in range(5000)]
    assert str(condition(table_of(again))).count("item_index") == 2


def test_many_single_items_do_not_go_too_deep() -> None:
    again = [("a", item, "short", revision) for revision in (1, 2) for item in range(0, 2000, 2)]
    gone = condition(table_of(again))
    assert gone is not None
    assert ds.dataset(table_of(again)).to_table(filter=~gone).num_rows == 1000
