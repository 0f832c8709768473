"""The engine ``scripted``: made-up captions at a made-up speed, for tests and benchmarks.

It looks at no picture. What it writes follows from the slot and the item's key, so that a test can tell whether
a caption belongs to its item. The spec's options say how: ``rate`` (items per second, 0: at once), ``length``
(characters), ``failures`` (share of items that fail for good) and ``seed``.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Sequence

from cfbus.bus.messages import FailedItem, Spec
from cfbus.core.outcome import Caption, EngineFacts, Outcome, WorkItem
from cfbus.engines.base import Post

MODEL = "scripted-1 (made-up text)"
_WORDS = ("amber", "brisk", "cedar", "delta", "ember", "fjord", "grove", "harbor", "island", "juniper", "kettle")
_FILLERS = 64
_MAX_LENGTH = 65536


def caption_of(slot: str, key: str, length: int, filler: str) -> str:
    """The caption of an item: its slot and key, then filler up to ``length`` characters."""
    return f"{slot} of {key}: {filler}"[: max(length, len(slot) + len(key) + 4)]


class ScriptedEngine:
    """Writes what it was told to write, when it was told to."""

    facts = EngineFacts("scripted", MODEL)

    def __init__(self, post: Post) -> None:
        self._post = post
        self._rate = 0.0
        self._length = 300
        self._failures = 0.0
        self._seed = 0
        self._fillers: list[str] = [""]
        self._queue: queue.SimpleQueue[WorkItem | None] = queue.SimpleQueue()
        self._abandoned: set[tuple[str, int]] = set()
        self._thread: threading.Thread | None = None

    def use(self, spec: Spec) -> None:
        """See ``Engine.use``."""
        options = dict(spec.options)
        self._rate = options.get("rate", 0.0)
        self._length = min(int(options.get("length", 300)), _MAX_LENGTH)
        self._failures = options.get("failures", 0.0)
        self._seed = int(options.get("seed", 0))
        dice = random.Random(self._seed)  # noqa: S311 - made-up text
        count = self._length // 4 + 2
        self._fillers = [" ".join(dice.choices(_WORDS, k=count)) for _ in range(_FILLERS)]

    def submit(self, items: Sequence[WorkItem]) -> None:
        """See ``Engine.submit``."""
        if self._rate <= 0:
            for item in items:
                self._post(self._outcome(item))
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="scripted", daemon=True)
            self._thread.start()
        for item in items:
            self._queue.put(item)

    def abandon(self, lease: str, indices: frozenset[int]) -> None:
        """See ``Engine.abandon``."""
        if self._rate > 0:
            self._abandoned.update((lease, index) for index in indices)

    def close(self) -> None:
        """See ``Engine.close``."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=2.0)

    def _work(self) -> None:
        due = time.monotonic()
        while (item := self._queue.get()) is not None:
            if (item.lease, item.index) in self._abandoned:
                self._abandoned.discard((item.lease, item.index))
                continue
            due = max(due, time.monotonic() - 0.1) + 1 / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
            self._post(self._outcome(item))

    def _outcome(self, item: WorkItem) -> Outcome:
        if self._failures and random.Random(f"{self._seed} {item.shard} {item.key}").random() < self._failures:  # noqa: S311
            failure = FailedItem(index=item.index, reason="scripted", detail="told to fail", fault="item")
            return Outcome(item.lease, item.index, failure=failure)
        filler = self._fillers[item.index % _FILLERS]
        captions = tuple([Caption(caption_of(slot, item.key, self._length, filler)) for slot in item.slots])
        return Outcome(item.lease, item.index, captions)
