"""Tars for tests, and reading all items of a source."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from cfbus.sources.base import Content, Item, ListedShard, Source


def make_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar of these members, in their order; a name may come twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def items(shard: ListedShard) -> list[Item]:
    return [Item(n, key, locator) for n, (key, locator) in enumerate(zip(shard.keys, shard.locators, strict=True))]


def contents(source: Source, shard: ListedShard) -> list[Content]:
    return [source.read(shard.name, item) for item in items(shard)]
