"""A loaded vLLM: requests go in one by one, what is written comes out as it is written.

What it is for: the same few calls over `AsyncLLM` (an engine in processes of its own, as on a GPU host) and over
`LLMEngine` in this process. vLLM's own switch chooses: with VLLM_ENABLE_V1_MULTIPROCESSING=0 it is the latter, which
starts in a quarter of the time.

What it must not know: items, leases, prompts' places. Only this module and `vllm_template` import vllm or what comes
with it, and only inside functions: no daemon may need them to be imported.

Invariants: a request that vLLM refuses raises `RequestRefusedError` and touches no other; an engine that died raises
`EngineDownError` from every request; a request whose task is cancelled is aborted.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cfbus.bus.fields import Sampling
from cfbus.bus.figures import EngineFigures
from cfbus.config_file import Value
from cfbus.engines.vllm_figures import StepMeter

IN_PROCESS: Final = "VLLM_ENABLE_V1_MULTIPROCESSING"

# Processors and tokenizers are anybody's code; on an odd picture or prompt any of these comes out of them.
_REFUSALS: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
                    ValueError)  # fmt: skip


class RequestRefusedError(Exception):
    """vLLM does not take this request; the message says why."""


class EngineDownError(Exception):
    """The engine has died, and all that was in it."""


class Written(Protocol):
    """What was written for a request so far."""

    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: Sequence[Mapping[int, object]] | None
    finish_reason: str | None


class Output(Protocol):
    """vLLM's answer to a request."""

    request_id: str
    prompt_token_ids: Sequence[int] | None
    outputs: Sequence[Written]
    finished: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a request is to be written, and whether its output comes after each token or at the end."""

    sampling: Sampling
    each_token: bool = False
    logprobs: int = 0


class Running(Protocol):
    """A loaded model. Used from one asyncio loop."""

    model_config: Any

    def generate(self, prompt: Mapping[str, object], wanted: Wanted, name: str) -> AsyncIterator[Output]:
        """What is written so far, again and again; the last one has a finish reason."""

    def check(self, sampling: Sampling) -> None:
        """Raises RequestRefusedError when no request can be written like this."""

    def figures(self, items: int) -> EngineFigures:
        """How it is doing, from any thread; ``items`` are in it now."""

    def close(self) -> None:
        """Free what it holds; may take seconds."""


def load(arguments: Mapping[str, Value]) -> Running:
    """Load a model, in the thread whose loop will use it. Raises whatever vLLM raises, see `explained`."""
    in_process = os.environ.get(IN_PROCESS) == "0"
    return _InProcess(arguments) if in_process else _InProcesses(arguments)


class _InProcesses:
    """`AsyncLLM`: the engine runs in processes of its own."""

    def __init__(self, arguments: Mapping[str, Value]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._meter, loggers = _meter(arguments)
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=loggers)
        self.model_config = self._engine.model_config

    async def generate(self, prompt: Mapping[str, object], wanted: Wanted, name: str) -> AsyncIterator[Output]:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            async for output in self._engine.generate(prompt, sampling_params(wanted), name):
                yield output
        except EngineDeadError:
            raise EngineDownError from None
        except EngineGenerateError as error:
            if self._engine.errored:
                raise EngineDownError from error
            raise RequestRefusedError(_said(error)) from error
        except _refusals() as error:
            raise RequestRefusedError(_said(error)) from error

    def check(self, sampling: Sampling) -> None:
        _check(sampling)

    def figures(self, items: int) -> EngineFigures:
        return _figures(self._meter, items)

    def close(self) -> None:
        self._engine.shutdown()


class _InProcess:
    """`LLMEngine` in this process; it works in one thread, a step at a time."""

    def __init__(self, arguments: Mapping[str, Value]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._meter, loggers = _meter(arguments)
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments), stat_loggers=loggers)
        self.model_config = self._engine.model_config
        self._thread = ThreadPoolExecutor(1, "vllm")
        self._queues: dict[str, asyncio.Queue[Output | None]] = {}
        self._stepping: asyncio.Task[None] | None = None
        self._down: BaseException | None = None

    async def generate(self, prompt: Mapping[str, object], wanted: Wanted, name: str) -> AsyncIterator[Output]:
        if self._down is not None:
            raise EngineDownError from self._down
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Output | None] = asyncio.Queue()
        self._queues[name] = queue
        done = False
        try:
            await self._added(loop, name, prompt, sampling_params(wanted))
            if self._stepping is None or self._stepping.done():
                self._stepping = loop.create_task(self._steps(loop))
            while not done:
                output = await queue.get()
                if output is None:
                    raise EngineDownError from self._down
                done = output.finished
                yield output
        finally:
            self._queues.pop(name, None)
            if not done and self._down is None:
                self._thread.submit(self._engine.abort_request, [name])

    async def _added(
        self, loop: asyncio.AbstractEventLoop, name: str, prompt: Mapping[str, object], sampling: object
    ) -> None:
        try:
            await loop.run_in_executor(self._thread, self._engine.add_request, name, prompt, sampling)
        except _refusals() as error:
            raise RequestRefusedError(_said(error)) from error

    async def _steps(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._queues:
            try:
                outputs = await loop.run_in_executor(self._thread, self._engine.step)
            except _refusals() as error:
                self._down = error
                for queue in self._queues.values():
                    queue.put_nowait(None)
                return
            for output in outputs:
                if output.request_id in self._queues:
                    self._queues[output.request_id].put_nowait(output)

    def check(self, sampling: Sampling) -> None:
        _check(sampling)

    def figures(self, items: int) -> EngineFigures:
        return _figures(self._meter, items)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._down = self._down or EngineDownError()
        shutdown = getattr(self._engine.engine_core, "shutdown", None)
        if shutdown is not None:
            shutdown()
        del self._engine


def _meter(arguments: Mapping[str, Value]) -> tuple[StepMeter | None, list[object] | None]:
    """What counts, and what vLLM is to tell; nothing where the person does not want it to."""
    if arguments.get("disable_log_stats"):
        return None, None
    meter = StepMeter()
    return meter, [meter.factory]


def _figures(meter: StepMeter | None, items: int) -> EngineFigures:
    return EngineFigures(running=items) if meter is None else meter.figures(busy=items > 0)


def sampling_params(wanted: Wanted) -> object:
    """vLLM's own form of it."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    kind = RequestOutputKind.CUMULATIVE if wanted.each_token else RequestOutputKind.FINAL_ONLY
    given = wanted.sampling.model_dump() | {"stop": list(wanted.sampling.stop)}
    return SamplingParams(**given, logprobs=wanted.logprobs, output_kind=kind)


def _check(sampling: Sampling) -> None:
    try:
        sampling_params(Wanted(sampling))
    except _refusals() as error:
        raise RequestRefusedError(_said(error)) from error


@functools.cache
def _refusals() -> tuple[type[Exception], ...]:
    """vLLM has errors of its own for what it refuses, which were ValueErrors before it had."""
    own = getattr(importlib.import_module("vllm.exceptions"), "VLLMError", ValueError)
    return (*_REFUSALS, own)


def _said(error: BaseException) -> str:
    """The first of the errors that led to this one: it is the one that says what was wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
