"""What an admin can ask to see of a store: dead letters, tombstones, passes, what differs. Reads only.

Invariant: what is shown is bounded, and how much there is in all is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from cfbus.errors import UsageError
from cfbus.store.amendments import Plan, Request
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.scan import compare
from cfbus.store.view import open_view

if TYPE_CHECKING:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

LETTERS = ("shard", "item_index", "item_key", "reason", "fault", "attempts", "detail", "who")
COUNTED = ("reason", "fault", "shard", "who")
"""What dead letters can be counted by: it has far fewer values than there are rows."""
SHOWN = 200
BATCH = 8192
"""So many rows are looked at at a time."""


def look(store: Store, request: Request) -> Plan:
    """The answer, as facts and a table."""
    looks = {"dead-letters": dead_letters, "tombstones": tombstones, "passes": passes, "scan": differences}
    if request.verb not in looks:
        raise UsageError(f"The writer knows no {request.verb!r}.", "Is it older than the broker?")
    return looks[request.verb](store, request)


def dead_letters(store: Store, request: Request) -> Plan:
    """What was given up on, and why: one by one, or how many there are for each reason."""
    import pyarrow.compute as pc

    by = request.arguments.get("by")
    if by is not None and by not in COUNTED:
        raise UsageError(f"Dead letters are not counted by {by!r}.", f"By one of: {', '.join(COUNTED)}.")
    wanted = [(name, request.arguments[name]) for name in ("reason", "fault", "shard") if name in request.arguments]
    where = reduce(and_, (pc.field(name) == value for name, value in wanted)) if wanted else None
    found = open_view(store.root).failures.dataset()
    if by is None:
        facts = (("dead_letters", str(_scanner(found, [], where).count_rows())),)
        rows = _scanner(found, LETTERS, where).head(SHOWN).to_pylist()
        return Plan(
            facts=facts, columns=LETTERS, rows=tuple(tuple(_cell(row[name]) for name in LETTERS) for row in rows)
        )
    counts: Counter[str] = Counter()
    for batch in _scanner(found, [by], where).to_batches():
        counts.update(map(_cell, batch[by].to_pylist()))
    shown = (("shown", f"{SHOWN} of {len(counts)}"),) if len(counts) > SHOWN else ()
    facts = (("dead_letters", str(counts.total())), *shown)
    most = counts.most_common(SHOWN)
    return Plan(facts=facts, columns=(by, "count"), rows=tuple((name, str(count)) for name, count in most))


def _scanner(found: ds.Dataset, columns: Sequence[str], where: pc.Expression | None) -> ds.Scanner:
    """Reads on as it is asked to, a little ahead: never the whole table in memory."""
    return found.scanner(columns=list(columns), filter=where, batch_size=BATCH, batch_readahead=1, fragment_readahead=1)


def tombstones(store: Store, _request: Request) -> Plan:
    """All tombstones, and the passes that make them good."""
    with closing(Manifest.open(store)) as manifest:
        stones, passes = manifest.tombstones(), manifest.passes()
    rows = []
    for one in stones:
        redos = [str(row.number) for row in passes if row.redo is not None and row.redo.tombstone == one.number]
        counts = (str(sum(one.credits.values())), str(one.dead_letters))
        rows.append((str(one.number), one.state, one.why, one.who, *counts, ", ".join(redos)))
    columns = ("tombstone", "state", "of", "by", "captions", "dead_letters", "passes")
    return Plan(facts=(("tombstones", str(len(stones))),), columns=columns, rows=tuple(rows))


def passes(store: Store, _request: Request) -> Plan:
    """All passes; of what is done that which is sealed."""
    with closing(Manifest.open(store)) as manifest:
        listed = sum(shard.length for shard in manifest.shards())
        done: Counter[int] = Counter()
        for number, _, start, end in manifest.done():
            done[number] += end - start
        rows = []
        for row in manifest.passes():
            items = listed if row.items is None else row.items
            state = "closed" if row.closed else "complete" if done[row.number] == items else "open"
            with_ = ", ".join(f"{name}={value}" for name, value in row.redo.overrides) if row.redo is not None else ""
            kind = "redo" if row.redo is not None else "all items"
            rows.append(
                (str(row.number), kind, ", ".join(row.slots), str(items), str(done[row.number]), "0", state, with_)
            )
    return Plan(columns=("pass", "of", "slots", "items", "done", "held", "state", "set"), rows=tuple(rows))


def differences(store: Store, _request: Request) -> Plan:
    """Where segments, listing, manifest and journal do not fit together, and where the store ends."""
    compared = compare(store, None, locked=False)
    rows = tuple((each.where, each.what, each.mends) for each in compared.findings)
    facts = (("differences", str(len(rows))), ("whole", "yes" if compared.whole else "no"), ("end", str(compared.end)))
    return Plan(facts=facts, columns=("where", "what", "mended by"), rows=rows)


def _cell(value: object) -> str:
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
