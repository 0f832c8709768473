"""The engine ``palette`` behind the engines' port: pictures are described in the children that decode them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from cfbus.bus.columns import FLAGS
from cfbus.bus.figures import EngineFigures
from cfbus.bus.messages import Spec
from cfbus.core.outcome import Caption, EngineFacts, ImageFacts, Outcome, WorkItem
from cfbus.core.prompts import SKIPPED
from cfbus.decoding import DecodePool
from cfbus.engines import palette
from cfbus.engines.asking import asked, unknown_slot
from cfbus.engines.base import Loaded, Post, Read
from cfbus.engines.feed import Fed, Feed
from cfbus.images import Picture
from cfbus.sources.base import DISK_READERS

Described = tuple[Picture, tuple[str | None, ...]]
NOT_ASKED = Caption("", SKIPPED, flags=1 << FLAGS.index("empty"))


class PaletteEngine:
    """Describes size, light and colours. No vision-language model, and its model name says so."""

    facts = EngineFacts(palette.ENGINE, palette.MODEL)

    def __init__(self, read: Read, pool: DecodePool, post: Post, *, readers: int = DISK_READERS) -> None:
        self._post = post
        self._describers = pool.processes
        self._spec: Spec | None = None
        self._feed: Feed[Described] = Feed(read, pool, self._described, readers)

    def use(self, spec: Spec) -> None:
        """See ``Engine.use``."""
        self._spec = spec

    def submit(self, items: Sequence[WorkItem]) -> None:
        """See ``Engine.submit``."""
        assert self._spec is not None
        for item in items:
            failure = unknown_slot(self._spec, item)
            if failure is not None:
                self._post(Outcome(item.lease, item.index, failure=failure))
            else:
                self._feed.put(item, functools.partial(_plan, self._spec, item.slots))

    def abandon(self, lease: str, indices: frozenset[int]) -> None:
        """See ``Engine.abandon``. Pictures are described too quickly for this to be worth anything."""

    def figures(self) -> EngineFigures:
        """See ``Engine.figures``. Decoding a picture and describing it are one here."""
        reading, describing = self._feed.counts()
        running = min(describing, self._describers)
        return EngineFigures(reading=reading, running=running, waiting=describing - running, level=self._describers)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._feed.close()

    def _described(self, fed: Fed[Described]) -> None:
        item = fed.item
        if fed.made is None:
            self._post(Outcome(item.lease, item.index, failure=fed.failure, milliseconds=fed.milliseconds))
            return
        picture, texts = fed.made
        captions = tuple(NOT_ASKED if text is None else Caption(text) for text in texts)
        size = picture.original_width, picture.original_height
        image = ImageFacts(*size, picture.format, picture.file_size, picture.sha256)
        self._post(Outcome(item.lease, item.index, captions, None, image, fed.milliseconds, fed.url, fed.metadata))


def _plan(spec: Spec, slots: Sequence[str], loaded: Loaded) -> Callable[[Picture], Described]:
    return functools.partial(palette.describe_picture, asked(spec, slots, loaded.columns))
