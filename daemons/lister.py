"""Lists what a source holds into the store: a child process of the writer, which holds the store's lock.

Reads the dataset's configuration as JSON from standard input, writes a listing file per new shard, and prints a
line of JSON for each once it is durable. The writer adds it to the manifest; a listing file without a manifest row
does not count.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cfbus import logs
from cfbus.config_dataset import Dataset
from cfbus.errors import EXIT_DONE
from cfbus.runtime import last_frame
from cfbus.sources.opening import open_source
from cfbus.store.arrays import without_pandas
from cfbus.store.folder import Store
from cfbus.store.left_out import NAME, Thing, write_left_out
from cfbus.store.listing import Known, write_listing
from cfbus.store.manifest import Manifest


def list_source(root: Path, dataset: Dataset) -> int:
    """Write the listing of every shard that is not there yet."""
    store = Store.peek(root)
    manifest = Manifest.open(store)
    number = manifest.shard_count()
    known = Known(store, manifest)
    manifest.close()
    source = open_source(dataset)
    for shard in source.shards(known):
        digest = write_listing(store, number, shard.keys, shard.locators, shard.group_ends)
        row = {"number": number, "name": shard.name, "length": len(shard.keys), "digest": digest}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        number += 1
    passed = source.left_out
    things = [Thing(thing.path, thing.reason, thing.grave) for thing in passed.things]
    write_left_out(store, passed.count, passed.grave, things)
    if passed.count:
        sys.stderr.write(f"{passed.count} things were left out, {passed.grave} of them grave; {NAME} names them\n")
    return EXIT_DONE


def main() -> None:
    """Entry point: STORE, and the dataset on standard input."""
    without_pandas()
    logs.setup("lister")
    root, dataset = Path(sys.argv[1]), Dataset.model_validate(json.load(sys.stdin))
    sys.exit(last_frame(lambda: list_source(root, dataset)))


if __name__ == "__main__":
    main()
