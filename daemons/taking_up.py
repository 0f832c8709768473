"""What a writer's core is told of its store before it hears of anything else.

Must not change anything; a core that was not told would take what is durable for new.
"""

from __future__ import annotations

from collections import Counter

from cfbus.core.writer import Writer
from cfbus.store.journal import Journal
from cfbus.store.manifest import Manifest


def take_up(core: Writer, manifest: Manifest, journal: Journal) -> None:
    """Tell a new core what the store holds."""
    for shard in manifest.shards():
        core.know_shard(shard.name, shard.length)
    for row in manifest.passes():
        core.know_pass(row.number, row.slots)
    for source in (manifest.done(), journal.done()):
        for number, shard_number, begin, end in source:
            core.know_done(number, shard_number, [(begin, end)])
    credited = Counter(manifest.totals()) + Counter(journal.totals())
    core.tallies.know_credits(credited)
    core.know_totals(credited.total(), manifest.failures() + journal.failures())
