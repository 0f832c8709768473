"""What is in a store, read as people read it: the parquet files with pyarrow, and what only the journal has."""

from __future__ import annotations

import hashlib
import io
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
from PIL import Image

from cfbus.bus.wire import unpack_small

Place = tuple[str, int]
"""A shard's name and an item's index in it."""
_COLUMNS = ["shard", "item_index", "item_key", "slot", "caption", "commit_seq", "image_sha256"]


@dataclass(frozen=True)
class Row:
    """A caption."""

    shard: str
    index: int
    key: str
    slot: str
    text: str
    position: int
    sha256: bytes | None


def rows(out: Path) -> list[Row]:
    """All captions in ``captions/*.parquet``."""
    table = ds.dataset(out / "captions", format="parquet").to_table(columns=_COLUMNS)
    return [Row(*values) for values in zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True)]


def failures(out: Path) -> list[dict[str, object]]:
    """All rows of ``failures/*.parquet``."""
    found: list[dict[str, object]] = ds.dataset(out / "failures", format="parquet").to_table().to_pylist()
    return found


def exact(out: Path, keys: Iterable[str], slots: Sequence[str]) -> list[Row]:
    """Each key has one caption in each slot, and there is nothing else. Returns the rows."""
    found = rows(out)
    counts = Counter((row.key, row.slot) for row in found)
    wanted = {(key, slot) for key in keys for slot in slots}
    doubles = {which for which, count in counts.items() if count > 1}
    assert not doubles, f"{len(doubles)} doubles, such as {sorted(doubles)[:3]}"
    assert set(counts) == wanted, f"{len(wanted - set(counts))} missing, {len(set(counts) - wanted)} too many"
    return found


def scripted_keys(count: int) -> list[str]:
    """The keys of the scripted source."""
    return [f"item-{number:08d}" for number in range(count)]


def exact_scripted(out: Path, count: int, slots: Sequence[str]) -> list[Row]:
    """As ``exact``; and each caption says that it is of its item and slot."""
    found = exact(out, scripted_keys(count), slots)
    strays = [row for row in found if not row.text.startswith(f"{row.slot} of {row.key}:")]
    assert not strays, strays[:3]
    return found


def exact_pictures(out: Path, folder: Path, slots: Sequence[str], without: Iterable[str] = ()) -> list[Row]:
    """As ``exact``, for the pictures in a folder; and each row has the checksum of its picture."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.jpg")}
    sums = {key: hashlib.sha256(path.read_bytes()).digest() for key, path in files.items() if key not in set(without)}
    found = exact(out, sums, slots)
    strays = [row for row in found if row.sha256 != sums[row.key] or not row.text]
    assert not strays, strays[:3]
    return found


def make_pictures(folder: Path, first: int, count: int) -> None:
    """Small JPEGs, no two alike, some in a folder below."""
    for number in range(first, first + count):
        dice = np.random.default_rng(number)
        colours = dice.integers(0, 256, (4, 4, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(colours).resize((64, 64), Image.Resampling.NEAREST).save(file, "JPEG")
        path = folder / (f"below/{number:05d}.jpg" if number % 5 == 0 else f"{number:05d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())


def journal_bytes(out: Path) -> int:
    """How much lies in the journal now; may be asked while a writer works."""
    total = 0
    for path in (out / "journal").glob("*.sqlite*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def sealed_bytes(out: Path) -> dict[str, bytes]:
    """The segments of the captions, by name."""
    return {path.name: path.read_bytes() for path in (out / "captions").glob("*.parquet")}


def durable(out: Path) -> dict[Place, int]:
    """The position of each item that is durable, sealed or not. Only while no writer works."""
    places = {(row.shard, row.index): row.position for row in rows(out)} if any(sealed_bytes(out)) else {}
    # Copies, because opening what a killed process left changes it.
    with tempfile.TemporaryDirectory() as folder:
        for path in (*out.glob("manifest.sqlite*"), *(out / "journal").glob("*.sqlite*")):
            shutil.copy(path, folder)
        names = _shard_names(Path(folder) / "manifest.sqlite")
        for copy in sorted(Path(folder).glob("0*.sqlite")):
            places |= _unsealed(copy, names)
    return places


def _shard_names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return []
        return [name for (name,) in database.execute("SELECT name FROM shards ORDER BY number")]


def _unsealed(path: Path, names: Sequence[str]) -> Mapping[Place, int]:
    places: dict[Place, int] = {}
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return {}
        for position, shard, ranges, mask in database.execute("SELECT position, shard, ranges, mask FROM frames"):
            pairs = np.frombuffer(ranges, "<i8").reshape(-1, 2).tolist()
            items = [index for start, end in pairs for index in range(start, end)]
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little") if mask else [1] * len(items)
            places |= {(names[shard], index): position for index, bit in zip(items, bits, strict=False) if bit}
    return places


def spooled(folder: Path) -> set[int]:
    """The indices of the items (of one shard) in the results that a worker keeps because they are not acked."""
    found: set[int] = set()
    for path in folder.glob("*.result"):
        try:
            ranges = unpack_small(path.read_bytes())["result"]["ranges"]
        except FileNotFoundError:
            continue
        found.update(index for start, end in ranges for index in range(start, end))
    return found


def untouched(before: Mapping[Place, int], after: Iterable[Row]) -> None:
    """What was durable before is still there, at the position that it had."""
    now = {(row.shard, row.index): row.position for row in after}
    moved = {place: (position, now.get(place)) for place, position in before.items() if now.get(place) != position}
    assert not moved, f"{len(moved)} rows were written again, such as {list(moved.items())[:3]}"
