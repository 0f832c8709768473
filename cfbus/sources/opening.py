"""From the configuration to the source that it names."""

from __future__ import annotations

from pathlib import Path

from cfbus.config_dataset import Dataset
from cfbus.config_types import shown_url
from cfbus.errors import SourceError
from cfbus.sources.base import Source
from cfbus.sources.folder import FolderSource
from cfbus.sources.huggingface import HuggingFaceSource
from cfbus.sources.remote_files import RemoteFiles
from cfbus.sources.scripted import ScriptedSource
from cfbus.sources.table_columns import Wanted
from cfbus.sources.tars import TarSource
from cfbus.sources.url_lists import UrlSource


def open_source(dataset: Dataset) -> Source:
    """The dataset's source. Raises ``SourceError`` when it cannot be opened at all."""
    if dataset.source == "scripted":
        return ScriptedSource(dataset.items, dataset.shard_items)
    local = tuple(path for path in dataset.paths if isinstance(path, Path))
    if dataset.source == "webdataset":
        return TarSource(
            dataset.paths,
            image=dataset.image_column,
            follow_links=dataset.follow_links,
            remote=RemoteFiles(dataset.downloads),
        )
    if dataset.source == "huggingface":
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
        return UrlSource(
            _lists(dataset),
            dataset.downloads,
            url_column=dataset.url_column,
            key_column=dataset.key_column,
            follow_links=dataset.follow_links,
            shard_items=dataset.shard_items,
        )
    return FolderSource(local, follow_links=dataset.follow_links, shard_items=dataset.shard_items)


def _lists(dataset: Dataset) -> list[Path]:
    away = next((path for path in dataset.paths if not isinstance(path, Path)), None)
    if away is not None:
        raise SourceError(
            f"dataset.paths: the list {shown_url(away)} is no file here.", "Download it first, then name the file."
        )
    return [path for path in dataset.paths if isinstance(path, Path)]
