"""From the configuration to the source that it names.

Only the modules of that source are imported: a daemon or a child needs one kind, and all of them together take longer
to import than a small source takes to be listed.
"""

from __future__ import annotations

from pathlib import Path

from cfbus.config_dataset import Dataset
from cfbus.config_types import shown_url
from cfbus.errors import SourceError
from cfbus.sources.base import Source


def open_source(dataset: Dataset) -> Source:
    """The dataset's source. Raises ``SourceError`` when it cannot be opened at all."""
    if dataset.source == "scripted":
        from cfbus.sources.scripted import ScriptedSource

        return ScriptedSource(dataset.items, dataset.shard_items)
    if dataset.source == "webdataset":
        from cfbus.sources.remote_files import RemoteFiles
        from cfbus.sources.tars import TarSource

        return TarSource(
            dataset.paths,
            image=dataset.image_column,
            follow_links=dataset.follow_links,
            remote=RemoteFiles(dataset.downloads),
        )
    if dataset.source == "huggingface":
        from cfbus.sources.huggingface import HuggingFaceSource
        from cfbus.sources.table_columns import Wanted

        wanted = Wanted(dataset.image_column, dataset.url_column, dataset.key_column)
        return HuggingFaceSource(
            dataset.paths,
            dataset.downloads,
            wanted,
            config=dataset.hub_config,
            split=dataset.split,
            revision=dataset.revision,
            follow_links=dataset.follow_links,
            shard_items=dataset.shard_items,
        )
    if dataset.source == "urls":
        from cfbus.sources.url_lists import UrlSource

        return UrlSource(
            _lists(dataset),
            dataset.downloads,
            url_column=dataset.url_column,
            key_column=dataset.key_column,
            follow_links=dataset.follow_links,
            shard_items=dataset.shard_items,
        )
    from cfbus.sources.folder import FolderSource

    local = tuple(path for path in dataset.paths if isinstance(path, Path))
    return FolderSource(local, follow_links=dataset.follow_links, shard_items=dataset.shard_items)


def _lists(dataset: Dataset) -> list[Path]:
    away = next((path for path in dataset.paths if not isinstance(path, Path)), None)
    if away is not None:
        raise SourceError(
            f"dataset.paths: the list {shown_url(away)} is no file here.", "Download it first, then name the file."
        )
    return [path for path in dataset.paths if isinstance(path, Path)]
