"""A store with pictures beside it: known captions, hostile ones, two passes, dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image
from store.conftest import frame_of

from cfbus.bus.columns import Table, build
from cfbus.core.frame import JournalFrame
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.store.seal import record, seal_journal

HOSTILE = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    '"><svg onload=alert(1)>',
    "a\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \u202egnp.exe \u2066 end",
    "=cmd|' /C calc'!A0",
    "two\nlines\r\nand &amp; \0 nul",
    "' OR 1=1 --; drop view captions",
)
ITEMS = 150
FLAGS = {"truncated": 1 << 0}


def captions(texts: Sequence[str], slots: Sequence[str] = ("short",), flags: int = 0) -> Table:
    """A caption per item and slot."""
    items, rows = len(texts), len(texts) * len(slots)
    columns: dict[str, list[object]] = {
        "image_width": [64] * items, "image_height": [48] * items, "image_format": ["PNG"] * items,
        "file_size": [1000] * items, "image_sha256": [bytes(32)] * items, "processing_ms": [1.5] * items,
        "url": ["javascript:alert(1)"] * items, "metadata": [""] * items,
        "caption": [f"{text} {slot}" for text in texts for slot in slots], "finish_reason": ["stop"] * rows,
        "prompt_tokens": [3] * rows, "output_tokens": [4] * rows, "mean_logprob": [-0.5] * rows, "seed": [7] * rows,
        "flags": [flags] * rows,
    }  # fmt: skip
    constants = dict.fromkeys(("spec", "model", "model_revision", "engine", "worker"), "<b>x</b>") | {"generation": "1"}
    same = ("x",) * len(slots)
    return build("captions", items, columns, constants, {"slot": tuple(slots), "stage": same, "prompt_id": same})


def failures(items: int) -> Table:
    words = {"reason": "empty", "fault": "item", "attempts": 3, "detail": "<i>no</i>", "who": "ann"}
    return build("failures", items, {name: [value] * items for name, value in words.items()})


class Shelf:
    """A store that grows by sealed segments, and the folder with its pictures."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.pictures = folder / "pictures"
        self.store = store
        self.manifest = Manifest.open(store)
        self.manifest.add_pass(["short"])
        self.manifest.add_pass(["short", "tags"])
        self.keys = [f"{item:04d}.png" for item in range(ITEMS - 1)] + ["<b>bold</b>.png"]
        digest = write_listing(store, 0, self.keys, [b""] * ITEMS)
        self.manifest.add_shards([ShardRow(0, "pictures-00000", ITEMS, digest)])
        self.journal = Journal.open(store, self.manifest)
        self.pictures.mkdir()
        for number, key in enumerate(self.keys[:4]):
            Image.new("RGB", (64, 48), (40 * number, 90, 160)).save(self.pictures / key)

    def seal(self, *frames: JournalFrame) -> None:
        position = self.journal.position
        self.journal.append([replace(frame, position=position + 1 + n) for n, frame in enumerate(frames)])
        closed = self.journal.roll()
        assert closed is not None
        record(self.manifest, self.journal, closed, seal_journal(self.store.root, closed.path))

    def write(self, start: int, table: Table, items: int, pass_number: int = 1) -> None:
        """Seal a frame on items from ``start`` on."""
        frame = frame_of(1, table, ((start, start + items),), pass_number=pass_number)
        job = f"pictures-00000:{start}-{start + items}@{pass_number}.1"
        self.seal(replace(frame, job=job, contributor=f"c{start // 50}"))

    def close(self) -> None:
        self.journal.close()
        self.manifest.close()


@contextmanager
def shelf(folder: Path) -> Iterator[Shelf]:
    with Store.open(folder / "store", "<b>birds</b>", create=True) as store:
        made = Shelf(folder, store)
        try:
            yield made
        finally:
            made.close()


def fill(made: Shelf) -> None:
    """All items: number N says ``a bird N``, the first ones what is hostile; three done again with tags; one failed."""
    texts = [*HOSTILE, *(f"a bird {item}" for item in range(len(HOSTILE), ITEMS - 1))]
    for start in range(0, ITEMS - 1, 50):
        part = texts[start : start + 50]
        made.write(start, captions(part, flags=2 if start == 50 else 0), len(part))
    made.write(20, captions([f"a better bird {item}" for item in (20, 21, 22)], ("short", "tags")), 3, 2)
    made.write(ITEMS - 1, failures(1), 1)
