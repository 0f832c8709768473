"""Where a worker's images come from: the source, if this host reaches it, and feeders for leases that name one.

Knows sources and feeders, nothing of engines. A worker without a source of its own starts all the same, and tells the
broker that it needs a feeder.
"""

from __future__ import annotations

from collections.abc import Callable

from cfbus import logs
from cfbus.bus.keys import KeyPair
from cfbus.config_dataset import Dataset
from cfbus.core.effects import Forget, ReadFrom
from cfbus.core.outcome import WorkItem
from cfbus.engines.base import Loaded
from cfbus.errors import SourceError
from cfbus.sources.base import Item, ReadError, ReadReason, Source
from cfbus.sources.columns import kept, url_of
from cfbus.sources.fed import READERS, Feeders
from cfbus.sources.opening import open_source


class Reading:
    """Reads items, from any thread. ``lost(lease)`` is called from another one when a feeder gives nothing."""

    def __init__(self, dataset: Dataset, pair: KeyPair, lost: Callable[[str], None]) -> None:
        self._keep = dataset.keep_columns
        self._source = _within_reach(dataset)
        self._feeders = Feeders(pair, lost)

    @property
    def itself(self) -> bool:
        """Whether this host reads the source."""
        return self._source is not None

    @property
    def readers(self) -> int:
        """How many reads at once make sense."""
        return self._source.readers if self._source is not None else READERS

    def read(self, item: WorkItem) -> Loaded:
        """The item's image and columns. Raises ReadError."""
        if self._feeders.feeds(item.lease):
            content = self._feeders.read(item.lease, item.index)
        elif self._source is not None:
            content = self._source.read(item.shard, Item(item.index, item.key, item.locator))
        else:
            raise ReadError(ReadReason.SOURCE_MISSING, "This worker has neither the source nor a feeder.", "worker")
        return Loaded(content.data, content.columns, url_of(content.columns), kept(content.columns, self._keep))

    def turn(self, effect: ReadFrom | Forget) -> None:
        """A lease whose images come from a feeder begins, or is over."""
        match effect:
            case ReadFrom(lease, way):
                self._feeders.read_from(lease, way)
            case Forget(lease):
                self._feeders.forget(lease)

    def close(self) -> None:
        """Let go of files and connections; who still waits for an item gets none."""
        self._feeders.close()
        if self._source is not None:
            self._source.close()


def _within_reach(dataset: Dataset) -> Source | None:
    """The source, if this host can read it. Raises SourceError when it must: ``dataset.delivery`` is direct."""
    if dataset.delivery == "feeder" or not (dataset.paths or dataset.source == "scripted"):
        return None
    try:
        source = open_source(dataset)
        problem = source.out_of_reach()
    except SourceError as error:
        if dataset.delivery == "direct":
            raise
        problem = str(error)
    else:
        if not problem:
            return source
        source.close()
        if dataset.delivery == "direct":
            raise SourceError(problem, "This worker was told to read the images itself (dataset.delivery: direct).")
    logs.get_logger().warning("source.out_of_reach", why=problem, says="a feeder is needed")
    return None
