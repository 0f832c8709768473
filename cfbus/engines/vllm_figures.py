"""What vLLM tells of itself after each step, summed up: how full it is, and how often its caches helped.

vLLM calls a stat logger for every step and says that the fields of what it passes may change with any version. So they
are read one by one, and one that is not there is a figure that is not known.

What it must not know: items, leases. It imports vllm only inside `factory`.

Invariants: `record` never raises, because it is called in the middle of vLLM's own loop; it keeps at most one entry
for each second of the window. May be used from any thread.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cfbus.bus.figures import EngineFigures

WINDOW_SECONDS = 30
"""So far back tokens per second and hits are counted."""


@dataclass(slots=True)
class _Second:
    """What happened in one second."""

    at: int
    tokens: int = 0
    tokens_known: bool = False
    looked_up: int = 0  # tokens of prompts that were looked up in the prefix cache
    found: int = 0
    images: int = 0
    images_found: int = 0


@dataclass(slots=True)
class _Engine:
    """The newest that one engine said; there are several where the model is there several times."""

    running: int = 0
    waiting: int = 0
    kv_usage: float | None = None


@dataclass(slots=True)
class StepMeter:
    """Takes what vLLM tells. ``clock`` gives seconds."""

    clock: Callable[[], float] = time.monotonic
    _engines: dict[int, _Engine] = field(default_factory=dict)
    _seconds: deque[_Second] = field(default_factory=lambda: deque(maxlen=WINDOW_SECONDS + 1))
    _level: int | None = None
    _began: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def factory(self, vllm_config: object, engine_index: int = 0) -> object:
        """A stat logger that passes all on to this; vLLM calls it once for each of its engines."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        meter = self

        class Passing(StatLoggerBase):  # type: ignore[misc]  # its methods are what vLLM calls, by these names
            def __init__(self) -> None:
                pass

            def record(self, scheduler_stats: object, iteration_stats: object, *rest: object, **more: object) -> None:
                meter.record(engine_index, scheduler_stats, iteration_stats, more.get("mm_cache_stats"))

            def log_engine_initialized(self) -> None:
                pass

        self.open(getattr(getattr(vllm_config, "scheduler_config", None), "max_num_seqs", None))
        return Passing()

    def open(self, level: object) -> None:
        """An engine that runs at most so many requests is there."""
        with self._lock:
            known = _whole(level)
            self._level = None if known is None else (self._level or 0) + known
            self._began = self.clock()

    def record(self, engine: int, scheduler: object, iteration: object, images: object) -> None:
        """A step was made."""
        with self._lock:
            second = self._second()
            if scheduler is not None:
                self._engines[engine] = _Engine(
                    _whole(_of(scheduler, "num_running_reqs")) or 0,
                    (_whole(_of(scheduler, "num_waiting_reqs")) or 0)
                    + (_whole(_of(scheduler, "num_skipped_waiting_reqs")) or 0),
                    _share(_of(scheduler, "kv_cache_usage")),
                )
                prefix = _of(scheduler, "prefix_cache_stats")
                second.looked_up += _whole(_of(prefix, "queries")) or 0
                second.found += _whole(_of(prefix, "hits")) or 0
            tokens = _whole(_of(iteration, "num_generation_tokens"))
            if tokens is not None:
                second.tokens += tokens
                second.tokens_known = True
            second.images += _whole(_of(images, "queries")) or 0
            second.images_found += _whole(_of(images, "hits")) or 0

    def _second(self) -> _Second:
        now = int(self.clock())
        if not self._seconds or self._seconds[-1].at != now:
            self._seconds.append(_Second(now))
        return self._seconds[-1]

    def figures(self, *, busy: bool) -> EngineFigures:
        """What all that says. Nothing tells of a step when there is none, so the caller knows whether it is busy."""
        with self._lock:
            now = self.clock()
            recent = [second for second in self._seconds if now - second.at <= WINDOW_SECONDS]
            engines = list(self._engines.values()) if busy else [_Engine(kv_usage=0.0) for _ in self._engines]
            usages = [engine.kv_usage for engine in engines if engine.kv_usage is not None]
            seconds = min(now - (self._began if self._began is not None else now), WINDOW_SECONDS)
            tokens = sum(second.tokens for second in recent)
            known = any(second.tokens_known for second in self._seconds)
            return EngineFigures(
                running=sum(engine.running for engine in engines),
                waiting=sum(engine.waiting for engine in engines),
                level=self._level,
                kv_usage=max(usages, default=None),
                prefix_hits=_ratio(sum(each.found for each in recent), sum(each.looked_up for each in recent)),
                image_hits=_ratio(sum(each.images_found for each in recent), sum(each.images for each in recent)),
                tokens_per_second=tokens / seconds if known and seconds >= 1 else None,
            )


def _of(stats: object, name: str) -> object:
    return getattr(stats, name, None)


def _whole(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return value if is_count and isinstance(value, int) else None


def _share(value: object) -> float | None:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    if not is_number or not isinstance(value, float | int) or not math.isfinite(value):
        return None
    return min(max(float(value), 0.0), 1.0)


def _ratio(part: int, whole: int) -> float | None:
    return min(part / whole, 1.0) if whole else None
