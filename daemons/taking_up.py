"""What a writer's core is told of its store before it hears of anything else.

Must not change anything; a core that was not told would take what is durable for new.
"""

from __future__ import annotations

from collections import Counter

from cfbus.bus import messages as m
from cfbus.core.writer import Writer
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import PassRow


def take_up(core: Writer, manifest: Manifest, journal: Journal) -> None:
    """Tell a new core what the store holds."""
    for shard in manifest.shards():
        core.inventory.know_shard(shard.name, shard.length)
    for row in manifest.passes():
        core.inventory.know_pass(facts_of(row), manifest.selected(row.number).tolist() if row.redo else ())
    for source in (manifest.done(), journal.done()):
        for number, shard_number, begin, end in source:
            core.inventory.know_done((number, shard_number), [(begin, end)])
    count(core, manifest, journal)


def count(core: Writer, manifest: Manifest, journal: Journal) -> None:
    """Tell a core how much there is of whom."""
    credited = Counter(manifest.totals()) + Counter(journal.totals())
    core.tallies.know_credits(credited)
    core.know_totals(credited.total(), manifest.failures() + journal.failures())


def facts_of(row: PassRow) -> m.PassFacts:
    """A pass as the bus tells it."""
    overrides = row.redo.overrides if row.redo is not None else ()
    return m.PassFacts(number=row.number, slots=row.slots, items=row.items, overrides=overrides, closed=row.closed)
