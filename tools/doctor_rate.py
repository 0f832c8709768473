"""How many images a second this host captions, measured on twenty: its own if it can read them, made ones if not.

The engine is opened as the daemon opens it, so with vLLM the model is loaded first. Nothing is sent or stored.
"""

from __future__ import annotations

import io
import queue
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from PIL import Image

from cfbus.bus import messages as m
from cfbus.config import Config, Loaded
from cfbus.core.outcome import Outcome, WorkItem
from cfbus.engines import base
from cfbus.engines.opening import open_engine
from cfbus.errors import CfbusError, ConfigError
from cfbus.logs import display
from cfbus.sources.base import Item, NothingKnown, Source
from cfbus.sources.columns import kept, url_of
from cfbus.sources.opening import open_source
from cfbus.spec import spec_of
from cfbus.tools.doctor_seen import Seen, bad, note, ok, wrong

IMAGES: Final = 20
PATIENCE_SECONDS = 300.0
SIZE: Final = (1024, 768)
LEASE: Final = "0" * 16


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is captioned: items, and who reads them."""

    items: tuple[WorkItem, ...]
    read: base.Read
    close: Callable[[], None]


def of_rate(loaded: Loaded, spec: m.Spec | None) -> Iterator[Seen]:
    """Images a second, by ``spec`` if the bus said one for this engine, else by this host's configuration."""
    settings = loaded.config
    use = spec if spec is not None and spec.engine == settings.captions.engine else None
    used = use or spec_of(settings.captions, settings.vllm)
    slots = tuple(slot.name for slot in used.slots)
    try:
        source, why = _own_source(settings)
    except CfbusError as error:
        source, why = None, error.message
    pictures = _own(settings, source, slots) if source is not None else None
    if pictures is None:
        says = f"This host reads none of the images itself, so a feeder has to serve them: {why or 'there are none.'}"
        yield note("images", says, "dataset.source and dataset.paths say where they are.")
        pictures = _made(slots)
    try:
        yield from _measured(loaded, pictures, used)
    except CfbusError as error:
        yield bad("rate", error)
    finally:
        pictures.close()


def _own_source(settings: Config) -> tuple[Source | None, str]:
    dataset = settings.dataset
    if dataset.delivery == "feeder":
        return None, "dataset.delivery is feeder."
    if dataset.source != "scripted" and not dataset.paths:
        return None, "dataset.paths names nothing."
    source = open_source(dataset)
    problem = source.out_of_reach()
    if problem:
        source.close()
        return None, problem
    return source, ""


def _own(settings: Config, source: Source, slots: tuple[str, ...]) -> Pictures | None:
    """The first images of the dataset, if it has any here."""
    try:
        shard = next(source.shards(NothingKnown()), None)
    except CfbusError:
        shard = None
    if shard is None or not shard.keys:
        source.close()
        return None
    named = zip(shard.keys, shard.locators, strict=True)
    items = tuple(
        WorkItem(LEASE, shard.name, index, key, locator, slots)
        for index, (key, locator) in enumerate(islice(named, IMAGES))
    )

    def read(item: WorkItem) -> base.Loaded:
        content = source.read(item.shard, Item(item.index, item.key, item.locator))
        columns = content.columns
        return base.Loaded(content.data, columns, url_of(columns), kept(columns, settings.dataset.keep_columns))

    return Pictures(items, read, source.close)


def _made(slots: tuple[str, ...]) -> Pictures:
    """Pictures that take as long to decode as photographs of their size."""
    data = [_picture(number) for number in range(IMAGES)]
    items = tuple(WorkItem(LEASE, "made", number, f"{number}.jpg", b"", slots) for number in range(IMAGES))

    def read(item: WorkItem) -> base.Loaded:
        return base.Loaded(data[item.index])

    return Pictures(items, read, lambda: None)


def _picture(seed: int) -> bytes:
    grain = random.Random(seed).randbytes(64 * 48 * 3)  # noqa: S311 - a pattern, no secret
    picture = Image.frombytes("RGB", (64, 48), grain).resize(SIZE, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


def _measured(loaded: Loaded, pictures: Pictures, spec: m.Spec) -> Iterator[Seen]:
    finished: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    loading = time.monotonic()
    engine, pool = open_engine(loaded.config, pictures.read, finished.put, loaded.origins)
    try:
        engine.use(spec)
        began = time.monotonic()
        engine.submit(pictures.items)
        outcomes = _awaited(finished, len(pictures.items), began + PATIENCE_SECONDS)
        seconds = time.monotonic() - began
    finally:
        engine.close()
        if pool is not None:
            pool.close()
    yield _judged(outcomes, len(pictures.items), seconds, began - loading, len(spec.slots))


def _awaited(finished: queue.SimpleQueue[Outcome], count: int, until: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        try:
            outcomes.append(finished.get(timeout=max(until - time.monotonic(), 0.01)))
        except queue.Empty:
            break
    return outcomes


def _judged(outcomes: list[Outcome], count: int, seconds: float, loading: float, slots: int) -> Seen:
    good = [each for each in outcomes if each.failure is None]
    failed = [each.failure for each in outcomes if each.failure is not None]
    if not good:
        why = f"{failed[0].reason}: {display(failed[0].detail, 300)}" if failed else "none came to an end in time"
        return wrong("rate", f"None of {count} images could be captioned: {why}", "", ConfigError)
    rate = len(good) / max(seconds, 1e-6)
    sentence = (
        f"{len(good)} images with {slots} caption{'s' if slots != 1 else ''} each in {seconds:.1f} s: {rate:.1f} images"
        f" a second, {rate * 3600:,.0f} an hour. The engine was ready after {loading:.0f} s."
    )
    if len(good) < count:
        why = (
            f" {count - len(good)} could not be captioned: {failed[0].reason}." if failed else " Not all ended in time."
        )
        return note("rate", sentence + why)
    return ok("rate", sentence)
