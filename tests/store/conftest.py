"""Makers of stores and frames that the tests of this folder share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cfbus.bus.columns import Table, build
from cfbus.bus.wire import checksum, encode_table
from cfbus.core.frame import JournalFrame
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.store.registry import Registry

SHARD_ITEMS = 200


@dataclass
class Opened:
    """A store with two shards and two passes (one slot, three slots), its manifest and journal."""

    store: Store
    manifest: Manifest
    journal: Journal

    def close(self) -> None:
        self.journal.close()
        self.manifest.close()
        self.store.close()


def open_all(path: Path) -> Opened:
    store = Store.open(path, "birds", create=True)
    manifest = Manifest.open(store)
    manifest.add_pass(["short"])
    if len(manifest.passes()) < 2:
        manifest.add_pass(["short", "tags", "long"])
    for number in range(manifest.shard_count(), 2):
        keys = [f"säck{number}/no\nline/{item:04d}.jpg" for item in range(SHARD_ITEMS)]
        digest = write_listing(store, number, keys, [b"\x00\xff"] * SHARD_ITEMS)
        manifest.add_shards([ShardRow(number, f"birds-{number:05d}", SHARD_ITEMS, digest)])
    try:
        return Opened(store, manifest, Journal.open(store, manifest))
    except BaseException:
        manifest.close()
        store.close()
        raise


def captions(items: int, text: str = "a bird") -> Table:
    rows = [f"{text} {item}" for item in range(items)]
    return build(
        "captions",
        items,
        {
            "image_width": [64] * items, "image_height": [48] * items, "image_format": ["JPEG"] * items,
            "file_size": [1000] * items, "image_sha256": [bytes([item % 256]) * 32 for item in range(items)],
            "processing_ms": [1.5] * items, "url": [""] * items, "metadata": [""] * items,
            "caption": rows, "finish_reason": ["stop"] * items,
            "prompt_tokens": [3] * items, "output_tokens": [4] * items, "mean_logprob": [-0.5] * items,
            "seed": [7] * items, "flags": [0] * items,
        },
        dict.fromkeys(("spec", "model", "model_revision", "engine", "worker"), "x") | {"generation": "1"},
        {"slot": ("short",), "stage": ("caption",), "prompt_id": ("p",)},
    )  # fmt: skip


def frame_of(
    position: int,
    table: Table,
    ranges: tuple[tuple[int, int], ...],
    *,
    pass_number: int = 1,
    shard: int = 0,
    mask: bytes | None = None,
) -> JournalFrame:
    payload = encode_table(table)
    return JournalFrame(
        position, table.kind, f"{position:016x}", f"birds-{shard:05d}:0-9@{pass_number}.1", pass_number, shard,
        ranges, mask, f"contributor{position % 3}", "SHA256:abc", 1_700_000_000_000_000 + position,
        checksum(payload), payload,
    )  # fmt: skip


def simple_frame(position: int, items: int = 4, text: str = "a bird") -> JournalFrame:
    start = (position - 1) * items % (SHARD_ITEMS - items)
    return frame_of(position, captions(items, text), ((start, start + items),))


@pytest.fixture(scope="session")
def opener() -> Callable[[Path], Opened]:
    return open_all


@pytest.fixture(scope="session")
def framer() -> Callable[..., JournalFrame]:
    return frame_of


@pytest.fixture(scope="session")
def simple() -> Callable[..., JournalFrame]:
    return simple_frame


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    everything = open_all(tmp_path / "store")
    yield everything
    everything.close()


@dataclass(frozen=True)
class SmallDisk:
    """A file system that can be filled up."""

    path: Path

    def fill(self) -> None:
        """Take all the room, as somebody else's file."""
        with suppress(OSError), open(self.path / "ballast", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def free(self) -> None:
        """Give the room back."""
        (self.path / "ballast").unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    problem = "mounting a small tmpfs needs root"
    if os.geteuid() == 0:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        problem = mounted.stderr.strip()
    if problem:
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    yield SmallDisk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the registry's file."""
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    """A new one."""
    with Registry.open(path, create=True) as opened:
        yield opened
