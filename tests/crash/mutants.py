"""Wrong programs: what is changed in the source, and what they then lose. Lines of source are quoted whole."""

from __future__ import annotations

from dataclasses import dataclass

FLIPS = "flips"
"""Not a workload: what ``test_cut_and_flipped`` does to a closed journal file."""


@dataclass(frozen=True)
class Edit:
    """A piece of source that occurs once, and what stands in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A wrong program. Recovery from one of the workload's images must fail, with ``symptom`` in what is said."""

    name: str
    edits: tuple[Edit, ...]
    symptom: str
    workload: str = "store"
    at_once: bool = False
    """Already the workload notices, before any power is cut."""


_FSYNC = "        file.flush()\n        fsync_fd(file.fileno(), path)"
_MANIFEST_FIRST = (
    Edit("store/seal.py", "    for writer in written:\n        publish(writer.staged, writer.path)\n", ""),
    Edit(
        "store/seal.py",
        "sum(path.stat().st_size for path in paths)",
        "sum(writer.staged.stat().st_size for writer in written)",
    ),
    Edit(
        "store/seal.py",
        "    manifest.add_segment(segment, merge_ranges(file.done))\n",
        "    manifest.add_segment(segment, merge_ranges(file.done))\n"
        "    root = file.path.parents[1]\n"
        "    for path in (root / name for name in sealed.files):\n"
        '        publish(root / "staging" / f"{path.parent.name}-{path.name}", path)\n',
    ),
)
_CALLED_COMPACTED = """\
            for number, dead_letters in applied.items():
                left = there[number].dead_letters - dead_letters
                self._keep(connection, replace(there[number], state="compacted", dead_letters=left))
"""

MUTANTS = (
    Mutant(
        "the journal is synced only now and then",
        (
            Edit(
                "store/journal.py",
                'connection.execute("PRAGMA synchronous = FULL")',
                'connection.execute("PRAGMA synchronous = NORMAL")',
            ),
        ),
        "was acked",
    ),
    Mutant(
        "the journal is never synced",
        (
            Edit(
                "store/journal.py",
                'connection.execute("PRAGMA synchronous = FULL")',
                'connection.execute("PRAGMA synchronous = OFF")',
            ),
        ),
        "",
    ),
    Mutant(
        "the manifest is synced only now and then",
        (
            Edit(
                "store/manifest_file.py",
                'connection.execute("PRAGMA synchronous = FULL")',
                'connection.execute("PRAGMA synchronous = NORMAL")',
            ),
        ),
        "",
    ),
    Mutant(
        "the registry is synced only now and then",
        (
            Edit(
                "store/registry_schema.py",
                'database.execute("PRAGMA synchronous = FULL")',
                'database.execute("PRAGMA synchronous = NORMAL")',
            ),
        ),
        "the key of",
    ),
    Mutant(
        "a file is not synced before it gets its name", (Edit("store/durable.py", _FSYNC, "        file.flush()"),), ""
    ),
    Mutant(
        "a folder is not synced after a rename",
        (
            Edit(
                "store/durable.py",
                "        written.replace(name)\n    fsync_dir(name.parent)",
                "        written.replace(name)",
            ),
        ),
        "",
    ),
    Mutant(
        "the manifest has the row before the segment has its name", _MANIFEST_FIRST, "it is gone, though it was sealed"
    ),
    Mutant(
        "the journal file goes before the manifest has its row",
        (
            Edit("store/seal.py", "    journal.remove(file.path)\n", ""),
            Edit(
                "store/seal.py",
                "    manifest.add_segment(segment,",
                "    journal.remove(file.path)\n    manifest.add_segment(segment,",
            ),
        ),
        "",
    ),
    Mutant(
        "what is durable is not looked up at the start",
        (
            Edit(
                "daemons/taking_up.py",
                "            core.inventory.know_done((number, shard_number), [(begin, end)])",
                "            pass",
            ),
        ),
        "",
    ),
    Mutant(
        "a segment's name changes when it is sealed again",
        (
            Edit(
                "store/seal.py",
                "        self.path = store.table_path(table, first)",
                "        self.path = store.table_path(table, first + os.getpid() * 10**8)",
            ),
        ),
        "which was sealed",
        at_once=True,
    ),
    Mutant(
        "folders are not synced when they are made",
        (
            Edit(
                "store/durable.py",
                "        path.mkdir(exist_ok=True)\n    fsync_dir(path.parent)",
                "        path.mkdir(exist_ok=True)",
            ),
        ),
        "",
    ),
    Mutant(
        "what a killed process left is believed before it is flushed",
        (
            Edit(
                "store/durable.py",
                "        if part.exists():\n            fsync_file(part)\n    fsync_dir(path.parent)",
                "        pass",
            ),
        ),
        "",
        workload="store-killed",
    ),
    Mutant(
        "the registry is believed before it is flushed",
        (Edit("store/registry_schema.py", "    flush_database(path)\n", ""),),
        "the key of ",
        workload="store-killed-registry",
    ),
    Mutant(
        "checksums are not compared",
        (
            Edit(
                "store/journal.py",
                "if row_checksum(head) != row_crc or not isinstance(frame, bytes) or checksum(frame) != head[-1]:",
                "if not isinstance(frame, bytes):",
            ),
        ),
        "a wrong frame",
        workload=FLIPS,
    ),
    Mutant(
        "a compaction does not say what it is about to publish",
        (Edit("store/compaction.py", "    manifest.add_spare(names.values(), 0)\n", ""),),
        "which was sealed",
        workload="compacted",
        at_once=True,
    ),
    Mutant(
        "a compaction names a file before it has its name",
        (
            Edit(
                "store/compaction.py",
                "    for table in written:\n        publish(staged[table], store.root / names[table])\n",
                "",
            ),
            Edit(
                "store/compaction.py",
                "(store.root / name).stat().st_size for name in names.values()",
                "staged[table].stat().st_size for table in names",
            ),
            Edit(
                "store/compaction.py",
                "    return joined if swapped else None\n",
                "    for table in written:\n"
                "        publish(staged[table], store.root / names[table])\n"
                "    return joined if swapped else None\n",
            ),
        ),
        "it is gone, though it was sealed",
        workload="compacted",
    ),
    Mutant(
        "old files go before the manifest has the new segment",
        (
            Edit(
                "store/compaction.py",
                "    done = manifest.done_of_segments()\n",
                "    done = manifest.done_of_segments()\n"
                "    for path in (store.root / name for one in group for name in one.files):\n"
                "        remove_file(path)\n",
            ),
        ),
        "it is gone, though it was sealed",
        workload="compacted",
        at_once=True,
    ),
    Mutant(
        "a segment is joined although a crash may have left its journal file",
        (
            Edit(
                "store/compaction.py",
                'if not (store.journal_dir / f"{one.first:016d}.sqlite").exists()',
                "if True",
            ),
        ),
        "",
        workload="compacted",
        at_once=True,
    ),
    Mutant(
        "old files are not called spare",
        (Edit("store/manifest.py", 'connection.executemany("INSERT INTO spare VALUES (?, ?, ?)", rows)', "pass"),),
        "which was sealed",
        workload="compacted",
        at_once=True,
    ),
    Mutant(
        "rows of a tombstone are gone before it is known that it stays",
        (
            Edit("store/manifest.py", _CALLED_COMPACTED, ""),
            Edit(
                "store/manifest.py",
                "        gone = {segment.first for segment in old}\n",
                "        with self._changing() as connection:\n"
                f"{_CALLED_COMPACTED}"
                "        gone = {segment.first for segment in old}\n",
            ),
        ),
        "can be removed, and",
        workload="applied",
    ),
    Mutant(
        "a tombstone that was applied to some segments is taken for applied to all",
        (
            Edit(
                "store/compaction.py",
                "if one.until >= group[0].first]",
                'if one.until >= group[0].first and one.state == "active"]',
            ),
        ),
        "rows that count are lost",
        workload="applied",
    ),
    Mutant(
        "a row that a tombstone takes out still replaces others",
        (
            Edit("store/revisions.py", "left = (~gone).nonzero()[0]", "left = np.arange(rows.num_rows)"),
            Edit("store/revisions.py", "gone[left] = replaced(", "gone |= replaced("),
        ),
        "rows that count are lost",
        workload="applied",
    ),
)
