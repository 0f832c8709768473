"""From the configuration to the source that it names."""

from __future__ import annotations

from cfbus.config_dataset import Dataset
from cfbus.sources.base import Source
from cfbus.sources.folder import FolderSource
from cfbus.sources.scripted import ScriptedSource


def open_source(dataset: Dataset) -> Source:
    """The dataset's source. Raises ``SourceError`` when it cannot be opened at all."""
    if dataset.source == "scripted":
        return ScriptedSource(dataset.items, dataset.shard_items)
    return FolderSource(dataset.paths, follow_links=dataset.follow_links, shard_items=dataset.shard_items)
