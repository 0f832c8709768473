"""What `cfbus check` tries out: the first items are read, decoded and captioned; one of them becomes a row of a table.

All of it goes the way that a run goes: source, engine, result, journal, parquet; only the bus is left out, and the
store is a temporary one. Changes nothing of the person's.
"""

from __future__ import annotations

import queue
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from cfbus import runtime
from cfbus.bus import messages as m
from cfbus.config import Config
from cfbus.core.frame import JournalFrame
from cfbus.core.held import Use
from cfbus.core.outcome import EngineFacts, Outcome, WorkItem
from cfbus.core.results import pack
from cfbus.core.worker import WorkerRules
from cfbus.engines.asking import asked
from cfbus.engines.base import Loaded
from cfbus.engines.opening import open_engine
from cfbus.sources.base import Item, LeftOut, ListedShard, NothingKnown, ReadError, Source
from cfbus.sources.columns import kept, url_of
from cfbus.spec import spec_of
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.store.seal import seal_journal

ENGINE_SECONDS = 300.0
LEASE = "0" * 16


@dataclass(frozen=True)
class Tried:
    """One item: what was read of it, and what became of it."""

    item: WorkItem
    loaded: Loaded | None
    outcome: Outcome
    engine: EngineFacts

    @property
    def problem(self) -> str:
        """Why it could not be captioned, as its dead letter would say; empty if it could."""
        failure = self.outcome.failure
        return f"{failure.reason}: {failure.detail}" if failure is not None else ""


@dataclass(frozen=True)
class Counted:
    """What the source holds, as far as there was time to count."""

    items: int
    shards: int
    whole: bool
    left_out: LeftOut


@dataclass(frozen=True)
class Columns:
    """How many of ``read`` items have each column."""

    read: int = 0
    have: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: Iterable[Loaded | ReadError | None]) -> Columns:
        """Those of the items that could be read."""
        read = [one for one in loaded if isinstance(one, Loaded)]
        return cls(len(read), Counter(name for one in read for name in one.columns))


@dataclass(frozen=True)
class Trial:
    """All that was tried. ``prompts`` and ``row`` are of the first item that could be captioned."""

    tried: Sequence[Tried]
    prompts: Mapping[str, str | None]
    row: Mapping[str, object]
    counted: Counted
    columns: Columns


def trial(settings: Config, source: Source, items: int, seconds: float, listed: Callable[[int], None]) -> Trial:
    """Try the first ``items`` items, and count for at most so many seconds; ``listed`` hears how far that is.

    Raises SourceError when there is nothing.
    """
    settings = _without_model(settings)
    shards = source.shards(NothingKnown())
    first = next(shards, None)
    tried = _try(settings, source, first, items) if first is not None else []
    good = next((one for one in tried if not one.problem), None)
    prompts, row = (_prompts(settings, good), _row(settings, first, tried, good)) if good and first else ({}, {})
    counted = _count(source, first, shards, seconds, listed)
    return Trial(tried, prompts, row, counted, Columns.of(one.loaded for one in tried))


def _without_model(settings: Config) -> Config:
    """No model is loaded to try a configuration: in its place the pictures are measured."""
    if settings.captions.engine != "vllm":
        return settings
    captions = settings.captions.model_copy(update={"engine": "palette"})
    return settings.model_copy(update={"captions": captions})


def _count(
    source: Source,
    first: ListedShard | None,
    rest: Iterator[ListedShard],
    seconds: float,
    listed: Callable[[int], None],
) -> Counted:
    items, shards, whole = len(first.keys) if first else 0, int(first is not None), False
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        shard = next(rest, None)
        if shard is None:
            whole = True
            break
        items, shards = items + len(shard.keys), shards + 1
        listed(items)
    return Counted(items, shards, whole, source.left_out)


def _items(settings: Config, shard: ListedShard, count: int) -> list[WorkItem]:
    slots = tuple(settings.captions.slots)
    named = zip(shard.keys, shard.locators, strict=True)
    return [
        WorkItem(LEASE, shard.name, index, key, locator, slots)
        for index, (key, locator) in enumerate(islice(named, count))
    ]


def _try(settings: Config, source: Source, shard: ListedShard, count: int) -> list[Tried]:
    items = _items(settings, shard, count)
    read = {item.index: _read(settings, source, item) for item in items}
    facts, outcomes = _caption(settings, items, read)
    found = {index: loaded for index, loaded in read.items() if isinstance(loaded, Loaded)}
    return [Tried(item, found.get(item.index), outcomes[item.index], facts) for item in items if item.index in outcomes]


def _read(settings: Config, source: Source, item: WorkItem) -> Loaded | ReadError:
    try:
        content = source.read(item.shard, Item(item.index, item.key, item.locator))
    except ReadError as error:
        return error
    columns = content.columns
    return Loaded(content.data, columns, url_of(columns), kept(columns, settings.dataset.keep_columns))


def _caption(
    settings: Config, items: Sequence[WorkItem], read: Mapping[int, Loaded | ReadError]
) -> tuple[EngineFacts, dict[int, Outcome]]:
    finished: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def again(item: WorkItem) -> Loaded:
        loaded = read[item.index]
        if isinstance(loaded, ReadError):
            raise loaded
        return loaded

    engine, pool = open_engine(settings, again, finished.put)
    found: dict[int, Outcome] = {}
    try:
        engine.use(spec_of(settings.captions, settings.vllm))
        engine.submit(items)
        until = time.monotonic() + ENGINE_SECONDS
        while len(found) < len(items) and time.monotonic() < until:
            outcome = finished.get(timeout=max(until - time.monotonic(), 0.01))
            found[outcome.index] = outcome
    except queue.Empty:
        pass
    finally:
        engine.close()
        if pool is not None:
            pool.close()
    while len(found) < len(items) and not finished.empty():
        outcome = finished.get()
        found[outcome.index] = outcome
    return engine.facts, found


def _prompts(settings: Config, good: Tried) -> dict[str, str | None]:
    columns = good.loaded.columns if good.loaded else {}
    slots = tuple(settings.captions.slots)
    return dict(zip(slots, asked(spec_of(settings.captions, settings.vllm), slots, columns), strict=True))


# ---------------------------------------------------------------------- a row


@contextmanager
def _store(dataset: str) -> Iterator[Store]:
    with (
        tempfile.TemporaryDirectory(prefix="cfbus-check-") as folder,
        Store.open(Path(folder) / "store", dataset, create=True) as store,
    ):
        yield store


def _row(settings: Config, shard: ListedShard, tried: Sequence[Tried], good: Tried) -> dict[str, object]:
    """The first row that this item would become, without what is not known."""
    count, slots = len(tried), tuple(settings.captions.slots)
    with _store(settings.dataset.name) as store:
        manifest = Manifest.open(store)
        digest = write_listing(store, 0, shard.keys[:count], shard.locators[:count])
        manifest.add_shards([ShardRow(0, shard.name, count, digest)])
        number = manifest.add_pass(slots)
        journal = Journal.open(store, manifest)
        journal.append([_frame(settings, shard, good, number)])
        closed = journal.roll()
        assert closed is not None
        sealed = seal_journal(store.root, closed.path)
        journal.close()
        manifest.close()
        row: dict[str, object] = pq.read_table(store.root / sealed.files[0]).slice(0, 1).to_pylist()[0]
    return {name: value for name, value in row.items() if value not in (None, "", [])}


def _frame(settings: Config, shard: ListedShard, good: Tried, number: int) -> JournalFrame:
    index, slots = good.item.index, tuple(settings.captions.slots)
    grant = m.Grant(
        lease=LEASE, pass_number=number, shard=0, shard_name=shard.name, start=index, end=index + 1, slots=slots,
        backup=False, ttl=1.0, window=0,
    )  # fmt: skip
    rules = WorkerRules(LEASE, settings.worker.name, 1)
    use = Use(spec_of(settings.captions, settings.vllm), 1)
    result, payload = pack([good.outcome], grant, use, good.engine, rules, 1)
    return JournalFrame(
        1, "captions", LEASE, f"{shard.name}:{index}-{index + 1}@{number}.1", number, 0, result.ranges, None,
        "you", "your key", runtime.wall(), result.crc, payload,
    )  # fmt: skip
