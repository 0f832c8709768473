"""From the configuration to the source that it names."""

from __future__ import annotations

from pathlib import Path

from cfbus.config_dataset import Dataset
from cfbus.sources.base import Source
from cfbus.sources.folder import FolderSource
from cfbus.sources.scripted import ScriptedSource
from cfbus.sources.tars import TarSource


def open_source(dataset: Dataset) -> Source:
    """The dataset's source. Raises ``SourceError`` when it cannot be opened at all."""
    if dataset.source == "scripted":
        return ScriptedSource(dataset.items, dataset.shard_items)
    local = tuple(path for path in dataset.paths if isinstance(path, Path))
    if dataset.source == "webdataset":
        return TarSource(local, image=dataset.image_column, follow_links=dataset.follow_links)
    return FolderSource(local, follow_links=dataset.follow_links, shard_items=dataset.shard_items)
