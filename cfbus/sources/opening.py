"""From the configuration to the source that it names."""

from __future__ import annotations

from cfbus.config_dataset import Dataset
from cfbus.sources.base import Source
from cfbus.sources.folder import FolderSource
from cfbus.sources.scripted import ScriptedSource
from cfbus.sources.tars import TarSource


def open_source(dataset: Dataset) -> Source:
    """The dataset's source. Raises ``SourceError`` when it cannot be opened at all."""
    if dataset.source == "scripted":
        return ScriptedSource(dataset.items, dataset.shard_items)
    if dataset.source == "webdataset":
        return TarSource(dataset.paths, image=dataset.image_column, follow_links=dataset.follow_links)
    return FolderSource(dataset.paths, follow_links=dataset.follow_links, shard_items=dataset.shard_items)
