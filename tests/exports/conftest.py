"""A store whose captions hold what is hard to write down: three slots, two passes, hostile texts and keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cfbus.bus.columns import FLAGS, build
from cfbus.bus.wire import checksum, encode_table
from cfbus.core.frame import JournalFrame
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.store.seal import record, seal_journal
from cfbus.store.snapshots import write_contributors

EMPTY = 1 << list(FLAGS).index("empty")
Text = str


@dataclass
class Shop:
    """A store that is being filled. ``at`` counts positions."""

    store: Store
    manifest: Manifest
    journal: Journal
    at: int = 0
    wrote: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """The newest caption of each shard, key and slot."""

    @property
    def root(self) -> Path:
        return self.store.root

    def shard(self, name: str, keys: Sequence[str]) -> None:
        number = self.manifest.shard_count()
        digest = write_listing(self.store, number, list(keys), [b""] * len(keys))
        self.manifest.add_shards([ShardRow(number, name, len(keys), digest)])

    def caption(
        self, shard: int, start: int, texts: Mapping[str, Sequence[Text]], *, contributor: str = "ann", second: int = 0
    ) -> None:
        """Items from ``start`` on, captioned in the newest pass that has these slots."""
        slots = tuple(texts)
        number = max(one.number for one in self.manifest.passes() if one.slots == slots)
        items = len(next(iter(texts.values())))
        rows = [texts[slot][item] for item in range(items) for slot in slots]
        count = len(rows)
        table = build(
            "captions",
            items,
            {
                "image_width": [64] * items, "image_height": [48] * items, "image_format": ["JPEG"] * items,
                "file_size": [1000] * items, "image_sha256": [bytes([0xAB]) * 32] * items,
                "processing_ms": [1.5] * items, "url": [""] * items, "metadata": ['{"title": "=x"}'] * items,
                "caption": rows, "finish_reason": ["stop"] * count, "prompt_tokens": [3] * count,
                "output_tokens": [len(text) for text in rows], "mean_logprob": [-0.5] * count, "seed": [7] * count,
                "flags": [0 if text else EMPTY for text in rows],
            },
            dict.fromkeys(("spec", "model", "model_revision", "engine", "worker"), "x") | {"generation": "1"},
            {"slot": slots, "stage": ("caption",) * len(slots), "prompt_id": ("p",) * len(slots)},
        )  # fmt: skip
        payload = encode_table(table)
        self.at = self.journal.position + 1
        frame = JournalFrame(
            self.at, "captions", f"{self.at:016x}", "job", number, shard, ((start, start + items),), None, contributor,
            "SHA256:abc", 1_700_000_000_000_000 + second * 1_000_000, checksum(payload), payload,
        )  # fmt: skip
        self.journal.append([frame])
        name = self.manifest.shards()[shard].name
        keys = self._keys(shard)
        for item in range(items):
            for slot in slots:
                self.wrote[name, keys[start + item], slot] = texts[slot][item]

    def _keys(self, shard: int) -> list[str]:
        from cfbus.store.listing import listing_column

        found: list[str] = listing_column(self.store, shard, "key").to_pylist()
        return found

    def seal(self) -> None:
        self.journal.roll()
        for file in self.journal.closed():
            record(self.manifest, self.journal, file, seal_journal(self.root, file.path))

    def close(self) -> None:
        self.journal.close()
        self.manifest.close()
        self.store.close()


def open_shop(path: Path) -> Shop:
    store = Store.open(path, "birds", create=True)
    manifest = Manifest.open(store)
    return Shop(store, manifest, Journal.open(store, manifest))


@pytest.fixture
def empty_shop(tmp_path: Path) -> Iterator[Shop]:
    shop = open_shop(tmp_path / "store")
    yield shop
    shop.close()


HARD = [
    "=HYPERLINK(1)",
    'line\nbreak, "quoted"',
    "'tis",
    "ünïcödé 🐦",
    "+1",
    "@x",
    "-2",
    "\tTab",
    "\uff1dwide",
    "plain",
]


@pytest.fixture
def shop(empty_shop: Shop) -> Shop:
    """``birds/a`` with ten items of two slots, ``birds/b`` with five; later a pass wrote ``tags`` of them all, and
    another ``short`` of two again."""
    shop = empty_shop
    shop.shard("birds/a.tar", [f"sub/{n:02d}.jpg" for n in range(10)])
    shop.shard("birds/b.tar", [f"b{n}" for n in range(5)])
    shop.manifest.add_pass(["short", "long"])
    shop.caption(0, 0, {"short": HARD, "long": [f"long {n}" for n in range(10)]})
    shop.seal()
    shop.caption(1, 0, {"short": ["b"] * 5, "long": ["", "x", "x", "x", "x"]}, contributor="bob", second=10)
    shop.seal()
    shop.manifest.add_pass(["tags"])
    shop.caption(1, 0, {"tags": ["t"] * 5}, contributor="bob", second=20)
    shop.caption(0, 0, {"tags": ["u"] * 10}, second=30)
    shop.seal()
    shop.manifest.add_pass(["short"])
    shop.caption(0, 3, {"short": ["again 3", "again 4"]}, contributor="=cyd()", second=40)
    shop.seal()
    names = build(
        "contributors",
        2,
        {"contributor_id": ["ann", "bob"], "name": ['Ann "A" \x1b[31mRed', "Bob"], "trust_level": [1, 1]},
    )
    write_contributors(shop.store, names, shop.manifest.totals())
    return shop
