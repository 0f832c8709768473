"""Which rows of a table a later pass replaced: of rows with the same key all but that of the highest revision.

Works on the key columns alone, in numpy. Knows nothing of files.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bits = npt.NDArray[np.bool_]


def replaced(rows: pa.Table) -> Bits:
    """For each row of a table of key columns and ``revision`` whether another has its key and a higher revision."""
    if rows.num_rows == 0:
        return np.zeros(0, np.bool_)
    keys = [_codes(rows[name]) for name in rows.column_names if name != "revision"]
    revision = rows["revision"].to_numpy()
    order = np.lexsort((revision, *keys))
    ends = np.ones(len(order), np.bool_)  # the last of each key has its highest revision
    ends[:-1] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    key_of_row = np.concatenate(([0], ends[:-1].cumsum()))
    gone = np.zeros(len(order), np.bool_)
    gone[order] = revision[order] < revision[order[ends]][key_of_row]
    return gone


def condition(rows: pa.Table) -> pc.Expression | None:
    """What holds for the replaced rows and for no other, as runs of items; None when there are none.

    Its size goes with the number of runs: little for items that were done again in a row, much for many
    single ones.
    """
    gone = rows.filter(pa.array(replaced(rows)))
    if gone.num_rows == 0:
        return None
    places = [name for name in gone.column_names if name != "item_index"]
    words = {name: gone[name].to_pylist() for name in places}
    runs: list[pc.Expression] = []
    index = gone["item_index"].to_numpy()
    codes = [_codes(gone[name]) for name in places]
    order = np.lexsort((index, *codes))
    breaks = np.diff(index[order]) > 1
    for code in codes:
        breaks |= np.diff(code[order]) != 0
    starts = np.concatenate(([0], breaks.nonzero()[0] + 1))
    ends = np.concatenate((starts[1:], [len(order)])) - 1
    for first, last in zip(order[starts], order[ends], strict=True):
        run = (pc.field("item_index") >= int(index[first])) & (pc.field("item_index") <= int(index[last]))
        for name in places:
            run &= pc.field(name) == words[name][first]
        runs.append(run)
    return _any_of(runs)


def _any_of(conditions: list[pc.Expression]) -> pc.Expression:
    """In halves, so that it is deep only as a logarithm of their number."""
    if len(conditions) <= 2:
        return reduce(or_, conditions)
    half = len(conditions) // 2
    return _any_of(conditions[:half]) | _any_of(conditions[half:])


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries().combine_chunks().indices
    return np.asarray(column.to_numpy(), np.int64)
