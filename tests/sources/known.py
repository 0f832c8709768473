"""A `Known` that remembers shards."""

from __future__ import annotations

from collections.abc import Iterable

from cfbus.sources.base import ListedShard, label_of


class Listed:
    def __init__(self, shards: Iterable[ListedShard]) -> None:
        self.shards = list(shards)

    def lists(self, shard: str) -> bool:
        return any(one.name == shard for one in self.shards)

    def next_number(self, label: str) -> int:
        return sum(label_of(shard.name) == label for shard in self.shards)

    def contains(self, label: str, key: str) -> bool:
        return any(label_of(shard.name) == label and key in shard.keys for shard in self.shards)

    def end(self, label: str) -> tuple[int, bytes]:
        mine = [shard for shard in self.shards if label_of(shard.name) == label]
        return sum(len(shard.keys) for shard in mine), mine[-1].locators[-1] if mine else b""

    def first(self, start: str) -> bytes:
        return next((shard.locators[0] for shard in self.shards if shard.name.startswith(start)), b"")
