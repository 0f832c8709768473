"""The engine ``palette`` behind the engines' port: pictures are described in the children that decode them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from cfbus.bus.messages import FailedItem, Spec
from cfbus.core.outcome import Caption, EngineFacts, ImageFacts, Outcome, WorkItem
from cfbus.decoding import DecodePool
from cfbus.engines import palette
from cfbus.engines.base import Post, Read
from cfbus.engines.feed import Fed, Feed
from cfbus.images import Picture

Described = tuple[Picture, tuple[str, ...]]


class PaletteEngine:
    """Describes size, light and colours. No vision-language model, and its model name says so."""

    facts = EngineFacts(palette.ENGINE, palette.MODEL)

    def __init__(self, read: Read, pool: DecodePool, post: Post) -> None:
        self._post = post
        self._prompts: dict[str, str] = {}
        self._feed: Feed[Described] = Feed(read, pool, self._described)

    def use(self, spec: Spec) -> None:
        """See ``Engine.use``."""
        self._prompts = {slot.name: slot.prompt for slot in spec.slots}

    def submit(self, items: Sequence[WorkItem]) -> None:
        """See ``Engine.submit``."""
        for item in items:
            if unknown := [slot for slot in item.slots if slot not in self._prompts]:
                detail = f"The configuration has no prompt for the slot {unknown[0]!r}."
                failure = FailedItem(index=item.index, reason="unknown-slot", detail=detail, fault="worker")
                self._post(Outcome(item.lease, item.index, failure=failure))
                continue
            prompts = tuple(self._prompts[slot] for slot in item.slots)
            then: Callable[[Picture], Described] = functools.partial(palette.describe_picture, prompts)
            self._feed.put(item, then)

    def abandon(self, lease: str, indices: frozenset[int]) -> None:
        """See ``Engine.abandon``. Pictures are described too quickly for this to be worth anything."""

    def close(self) -> None:
        """See ``Engine.close``."""
        self._feed.close()

    def _described(self, fed: Fed[Described]) -> None:
        item = fed.item
        if fed.made is None:
            self._post(Outcome(item.lease, item.index, failure=fed.failure, milliseconds=fed.milliseconds))
            return
        picture, texts = fed.made
        size = picture.original_width, picture.original_height
        image = ImageFacts(*size, picture.format, picture.file_size, picture.sha256)
        captions = tuple(Caption(text) for text in texts)
        self._post(Outcome(item.lease, item.index, captions, image=image, milliseconds=fed.milliseconds))
