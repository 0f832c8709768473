"""The engine ``scripted``: made-up captions at a made-up speed, for tests and benchmarks.

It looks at no picture. What it writes follows from the slot, the item's key and the seed, so that a test can
tell whether a caption belongs to its item. The spec's options say how: ``rate`` (items per second, 0: at once,
in ``submit`` itself), ``length`` (characters), ``failures`` (share of items that fail for good) and ``seed``.
A worker can be told to be so many times as fast as the rate says (``speed``), so that not all are alike.
"""

from __future__ import annotations

import hashlib
import queue
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cfbus.bus.fields import Overrides
from cfbus.bus.figures import EngineFigures
from cfbus.bus.messages import FailedItem, Spec
from cfbus.core.outcome import Caption, EngineFacts, Outcome, WorkItem
from cfbus.core.overriding import overridden
from cfbus.engines.base import Post

MODEL = "scripted-1 (made-up text)"
_WORDS = ("amber", "brisk", "cedar", "delta", "ember", "fjord", "grove", "harbor", "island", "juniper", "kettle")
_FILLERS = 64
_MAX_LENGTH = 65536
_CLOSE_SECONDS = 2.0
_BURST_SECONDS = 0.1  # so much lateness is made up for


def caption_of(slot: str, key: str, length: int, filler: str) -> str:
    """The caption of an item: its slot and key, then filler up to ``length`` characters."""
    return f"{slot} of {key}: {filler}"[: max(length, len(slot) + len(key) + 4)]


@dataclass(frozen=True, slots=True)
class _Script:
    """A spec's options, and filler text made from its seed."""

    rate: float
    length: int
    failures: float
    seed: int
    fillers: tuple[str, ...]

    @classmethod
    def of(cls, spec: Spec) -> _Script:
        options = dict(spec.options)
        length = min(int(options.get("length", 300)), _MAX_LENGTH)
        seed = int(options.get("seed", 0))
        dice = random.Random(seed)  # noqa: S311 - made-up text
        fillers = tuple(" ".join(dice.choices(_WORDS, k=max(0, length) // 4 + 2)) for _ in range(_FILLERS))
        return cls(options.get("rate", 0.0), length, options.get("failures", 0.0), seed, fillers)

    def outcome(self, item: WorkItem) -> Outcome:
        if self.failures and self._fails(item):
            failure = FailedItem(index=item.index, reason="scripted", detail="told to fail", fault="item")
            return Outcome(item.lease, item.index, failure=failure)
        filler = self.fillers[item.index % _FILLERS]
        captions = tuple([Caption(caption_of(slot, item.key, self.length, filler)) for slot in item.slots])
        return Outcome(item.lease, item.index, captions)

    def _fails(self, item: WorkItem) -> bool:
        name = f"{self.seed} {item.shard} {item.key}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "big") < self.failures * (1 << 32)


class ScriptedEngine:
    """Writes what it was told to write, when it was told to."""

    facts = EngineFacts("scripted", MODEL)

    def __init__(self, post: Post, speed: float = 1.0) -> None:
        self._post = post
        self._speed = speed
        self._spec: Spec | None = None
        self._scripts: dict[Overrides, _Script] = {}
        self._queue: queue.SimpleQueue[tuple[WorkItem, _Script] | None] = queue.SimpleQueue()
        # Who takes an item out of here posts it: the thread, or nobody after an abandon.
        self._waiting: dict[tuple[str, int], WorkItem] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def use(self, spec: Spec) -> None:
        """See ``Engine.use``."""
        self._spec, self._scripts = spec, {}

    def _script_of(self, item: WorkItem) -> _Script:
        assert self._spec is not None
        script = self._scripts.get(item.overrides)
        if script is None:
            script = self._scripts[item.overrides] = _Script.of(overridden(self._spec, item.overrides))
        return script

    def submit(self, items: Sequence[WorkItem]) -> None:
        """See ``Engine.submit``."""
        for item in items:
            script = self._script_of(item)
            if script.rate <= 0:
                self._post(script.outcome(item))
                continue
            self._start()
            self._waiting[item.lease, item.index] = item
            self._queue.put((item, script))

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="scripted", daemon=True)
            self._thread.start()

    def abandon(self, lease: str, indices: frozenset[int]) -> None:
        """See ``Engine.abandon``."""
        for index in indices:
            self._waiting.pop((lease, index), None)

    def figures(self) -> EngineFigures:
        """See ``Engine.figures``. It writes one caption at a time; there are no tokens."""
        items = len(self._waiting)
        running = min(items, 1)
        return EngineFigures(running=running, waiting=items - running, level=1)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._closed.set()
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)
        for item in self._waiting.values():
            failure = FailedItem(index=item.index, reason="closed", detail="The worker stopped.", fault="worker")
            self._post(Outcome(item.lease, item.index, failure=failure))
        self._waiting.clear()

    def _work(self) -> None:
        due = time.monotonic()
        while (entry := self._queue.get()) is not None:
            item, script = entry
            if (item.lease, item.index) not in self._waiting:
                continue
            due = max(due, time.monotonic() - _BURST_SECONDS) + 1 / (script.rate * self._speed)
            if self._closed.wait(max(0.0, due - time.monotonic())):
                return
            if self._waiting.pop((item.lease, item.index), None) is not None:
                self._post(script.outcome(item))
