"""webdataset: a tar for each shard, with the captions of each sample, or with its image and columns too.

Written by webdataset's writer, original tars read by its reader, on files that were opened here. Shards and samples
keep their names, so a side tar can be read beside the tar that it belongs to.

Invariants: a tar has its name only when it is whole and durable; the samples are in the order of the shard; the
memory is that of one shard's captions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfbus.exports import places
from cfbus.exports.log import Log, Tally
from cfbus.exports.parts import Part
from cfbus.exports.request import Request
from cfbus.exports.selection import Selection, columns_sql, name
from cfbus.exports.tables import claim
from cfbus.store.durable import disk_errors, new_file, publish
from cfbus.store.view import library

ROWS = 2000
_PLAIN = ("caption", "model", "finish_reason", "flags", "revision", "contributor_id")
Sample = dict[str, Any]


class Tars:
    """Writes each shard as a tar below a folder."""

    def __init__(self, request: Request, out: Path, work: Path, log: Log, *, overwrite: bool) -> None:
        self._wds = library("webdataset", 'pip install "cfbus[export]"')
        self._request = request
        self._out = out
        self._work = work
        self._log = log
        self._overwrite = overwrite

    def write(self, selection: Selection, part: Part, rows: int) -> Tally:
        """The shard that ``selection`` has loaded."""
        [shard] = part.shards
        stem = places.stem(shard.name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar"))
        if rows == 0:
            return Tally()
        if stem is None or not places.inside(self._out, (self._out / stem).parent):
            return Tally(unsafe=rows)
        shown = f"{stem}.tar"
        original = self._original(shard.name)
        if original is not None and not original.is_file():
            return Tally(missing=rows)
        staged = self._work / "shard.tar"
        samples = self._samples(selection)
        tally = Tally()
        with new_file(staged) as file, self._wds.TarWriter(file, encoder=False, mtime=0) as tar:
            for sample, captions in self._side(samples) if original is None else self._packed(original, samples):
                if sample:
                    tar.write(sample)
                tally += Tally(written=captions) if sample else Tally(missing=captions)
        claim(self._out / shown, shown, self._log, overwrite=self._overwrite)
        publish(staged, self._out / shown)
        return tally + Tally(unsafe=rows - tally.written - tally.missing)

    def _original(self, shard: str) -> Path | None:
        """The tar that a shard is of: its name begins with that of the folder."""
        images = self._request.images
        if images is None:
            return None
        images = images.resolve()
        _, slash, below = shard.partition("/")
        inner = images / (below if slash else shard)
        return inner if inner.resolve().is_relative_to(images) else images / "outside"

    def _samples(self, selection: Selection) -> Iterator[tuple[str, Sample, int]]:
        """Keys, what goes into the tar for them, and how many captions that is."""
        columns = self._request.columns or _PLAIN
        chosen = columns_sql(columns, pseudonyms=self._request.pseudonyms, texts=True)
        fields = ", ".join(f"{sql} AS {name('c_' + one)}" for one, sql in chosen.items())
        found = selection.connection.execute(f"SELECT item_index, item_key, slot, caption, {fields} FROM rows")  # noqa: S608
        at, key = -1, ""
        slots: dict[str, tuple[str, dict[str, object]]] = {}
        while batch := found.fetchmany(ROWS):
            for index, item_key, slot, caption, *values in batch:
                if index != at and slots:
                    yield _sample(key, slots)
                    slots = {}
                at, key = index, item_key
                slots[slot] = caption, dict(zip(chosen, values, strict=True))
        if slots:
            yield _sample(key, slots)

    def _side(self, samples: Iterator[tuple[str, Sample, int]]) -> Iterator[tuple[Sample, int]]:
        for key, columns, captions in samples:
            stem = places.stem(key)
            if stem is not None:
                yield {"__key__": places.dotless(stem), **columns}, captions

    def _packed(self, original: Path, samples: Iterator[tuple[str, Sample, int]]) -> Iterator[tuple[Sample, int]]:
        """The samples of a tar that have captions, with these."""
        wanted = {key: (columns, captions) for key, columns, captions in samples}
        with disk_errors(original), open(original, "rb") as file:
            tars = self._wds.tariterators
            members = ({**member, "__url__": str(original)} for member in tars.tar_file_iterator(file))
            for sample in tars.group_by_keys(members):
                columns, captions = wanted.pop(sample["__key__"], ({}, 0))
                if captions:
                    kept = {name: data for name, data in sample.items() if not name.startswith("__")}
                    yield {"__key__": sample["__key__"], **kept, **columns}, captions
        for _, captions in wanted.values():
            yield {}, captions


def _sample(key: str, slots: dict[str, tuple[str, dict[str, object]]]) -> tuple[str, Sample, int]:
    texts: Sample = {f"{slot}.txt": caption.encode() for slot, (caption, _) in slots.items()}
    told = {slot: columns for slot, (_, columns) in slots.items()}
    texts["captions.json"] = json.dumps(told, ensure_ascii=False).encode()
    return key, texts, len(slots)
