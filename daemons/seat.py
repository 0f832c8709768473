"""The worker's one engine: opened, closed, and replaced while the worker goes on talking to the broker.

Knows how engines are opened and closed; no lease, no signal, no difference of configurations.

Invariants: there are never two engines at a time, because a GPU has room for one model; when the new one cannot be
opened, one as before takes its place; nothing is tried without end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from cfbus.config import Config
from cfbus.decoding import DecodePool
from cfbus.engines.base import Engine
from cfbus.errors import CfbusError, TryAgainError

BACK_OFF_SECONDS = (0.0, 2.0, 10.0, 30.0)
"""How long to wait before the engine as it was before is opened again, each time; after the last it is given up."""
CLOSE_SECONDS = 5.0
_GPUS = "CUDA_VISIBLE_DEVICES"

Opened = tuple[Engine, "DecodePool | None"]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an engine is opened by; ``origins`` says by whom each key was given."""

    settings: Config
    origins: Mapping[str, str]


Open = Callable[[Blueprint], Opened]


@dataclass(frozen=True, slots=True)
class Replaced:
    """A new engine is there. With a ``problem`` it is one as before, and that is why."""

    seconds: float
    problem: CfbusError | None = None


class Seat:
    """Holds an engine. ``wake`` is called from another thread when one has been replaced."""

    def __init__(self, open_engine: Open, blueprint: Blueprint, wake: Callable[[], None]) -> None:
        """Opens the first one; takes as long as that takes."""
        self._open = open_engine
        self._wake = wake
        self._gpus = os.environ.get(_GPUS)  # an engine that is opened sets it for itself
        self.built = blueprint
        self._opened: Opened | None = open_engine(blueprint)
        self._coming: Future[tuple[Opened, Replaced]] | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    @property
    def engine(self) -> Engine | None:
        """None while one is replaced."""
        return self._opened[0] if self._opened is not None else None

    def replace(self, wanted: Blueprint) -> None:
        """Close the engine and open another, in a thread of its own; ``replaced`` tells what came of it."""
        assert self._opened is not None
        old, self._opened = self._opened, None
        self._coming = Future()
        # a daemon: what loads a model cannot be stopped, and must not keep the process
        self._thread = threading.Thread(
            target=self._work, args=(old, wanted, self._coming), name="replace-engine", daemon=True
        )
        self._thread.start()

    def replaced(self) -> Replaced | None:
        """What came of it, once. Raises TryAgainError when there is no engine any more."""
        if self._coming is None or not self._coming.done():
            return None
        coming, self._coming = self._coming, None
        self._opened, result = coming.result()
        return result

    def close(self) -> None:
        """Close what is there; of what is just being opened, nothing is awaited for long."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        if self._coming is not None and self._coming.done() and self._coming.exception() is None:
            self.replaced()
        if self._opened is not None:
            _close(self._opened)

    # ------------------------------------------------------------------ in the thread

    def _work(self, old: Opened, wanted: Blueprint, coming: Future[tuple[Opened, Replaced]]) -> None:
        began = time.monotonic()
        try:
            _close(old)
            opened, problem = self._opened_by(wanted)
            if self._ending.is_set():  # nobody waits for it any more
                _close(opened)
                return
            self.built = wanted if problem is None else self.built
            coming.set_result((opened, Replaced(time.monotonic() - began, problem)))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            coming.set_exception(error)
        self._wake()

    def _opened_by(self, wanted: Blueprint) -> tuple[Opened, CfbusError | None]:
        try:
            return self._fresh(wanted), None
        except CfbusError as error:
            problem = again = error
        for seconds in BACK_OFF_SECONDS:
            if self._ending.wait(seconds):
                break
            try:
                return self._fresh(self.built), problem
            except CfbusError as error:
                again = error
        raise TryAgainError(
            f"The engine could not be replaced ({problem.message}), nor one as before be opened: {again.message}",
            again.hint,
        )

    def _fresh(self, blueprint: Blueprint) -> Opened:
        """In the environment that the first one found."""
        os.environ.pop(_GPUS, None)
        if self._gpus is not None:
            os.environ[_GPUS] = self._gpus
        return self._open(blueprint)


def _close(opened: Opened) -> None:
    engine, pool = opened
    engine.close()
    if pool is not None:
        pool.close()
