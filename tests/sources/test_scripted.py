"""The made-up source: the port's contract without a disk."""

from __future__ import annotations

import pytest
from sources.known import Listed

from cfbus.sources.base import Item, NothingKnown, ReadError, ReadReason, Source, label_of, shard_name
from cfbus.sources.scripted import ScriptedSource


def test_items_are_numbered_and_cut_into_shards() -> None:
    source: Source = ScriptedSource(10, shard_items=4)
    shards = list(source.shards(NothingKnown()))
    assert [shard.name for shard in shards] == ["scripted-00000", "scripted-00001", "scripted-00002"]
    assert [len(shard.keys) for shard in shards] == [4, 4, 2]
    assert shards[2].keys == ["item-00000008", "item-00000009"]
    assert all(shard.locators == [b""] * len(shard.keys) for shard in shards)
    assert source.read("scripted-00001", Item(0, "item-00000004", b"")).data == b""


def test_more_items_come_in_new_shards() -> None:
    first = list(ScriptedSource(6, 4).shards(NothingKnown()))
    assert list(ScriptedSource(6, 4).shards(Listed(first))) == []
    more = list(ScriptedSource(9, 4).shards(Listed(first)))
    assert [(shard.name, shard.keys) for shard in more] == [
        ("scripted-00002", ["item-00000006", "item-00000007", "item-00000008"])
    ]


def test_no_items_are_no_shards() -> None:
    assert list(ScriptedSource(0).shards(NothingKnown())) == []


def test_a_foreign_shard_is_refused() -> None:
    with pytest.raises(ReadError) as caught:
        ScriptedSource(1).read("photos-00000", Item(0, "item-00000000", b""))
    assert (caught.value.reason, caught.value.fault) == (ReadReason.SOURCE_MISSING, "worker")


@pytest.mark.parametrize("label", ["a", "a-b", "a-00001", "photos.2", "-"])
@pytest.mark.parametrize("number", [0, 7, 99_999, 100_000])
def test_a_label_is_found_in_its_shards_name(label: str, number: int) -> None:
    assert label_of(shard_name(label, number)) == label


@pytest.mark.parametrize("name", ["", "photos", "photos-", "photos-x", "photos-1x", "photos-\u0663"])
def test_a_name_without_number_has_no_label(name: str) -> None:
    assert label_of(name) == ""
