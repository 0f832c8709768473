"""The model's thread: loads vLLM, keeps items in flight in it, and builds it anew when it has died.

What it is for: one thread with an asyncio loop, in which each item is a task. When the engine dies, the items that
were in it are tried again, in halves if need be (`cfbus.engines.suspects`), while new ones wait.

What it must not know: leases, reading, decoding.

Invariants: every job that is begun is ended once, unless it is dropped; jobs end in the loop's thread; after
`close` none does. An engine that cannot be built anew is given up with an error, never waited for without end.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from cfbus import logs
from cfbus.bus.fields import Sampling
from cfbus.bus.figures import EngineFigures
from cfbus.bus.messages import FailedItem
from cfbus.config_file import Value
from cfbus.core.outcome import Caption
from cfbus.engines.suspects import Suspects
from cfbus.engines.vllm_asking import Asker, Job, Template
from cfbus.engines.vllm_golden import golden_check
from cfbus.engines.vllm_running import EngineDownError, RequestRefusedError, Running, load
from cfbus.errors import CfbusError, ConfigError, TryAgainError

BACK_OFF_SECONDS = (0.0, 1.0, 4.0, 15.0, 60.0)
"""How long to wait before the engine is built anew, the first time, the second, …; after the last it is given up."""
MAX_DEATHS = 16
"""So many deaths in a row without a single finished item are no item's fault."""
STALL_SECONDS = 600.0
"""An engine that has work and writes nothing for this long is taken for dead."""
LOOK_SECONDS = 5.0
CLOSE_SECONDS = 15.0
"""vLLM gives its processes some seconds to end, then kills them; before that the GPU's memory is not free."""
_MAX_DETAIL = 500

Load = Callable[[Mapping[str, Value]], Running]
Ended = Callable[[Job, "tuple[Caption, ...] | None", "FailedItem | None"], None]


class Host:
    """One model, loaded for as long as this lives."""

    def __init__(
        self, arguments: Mapping[str, Value], template: Template, *, golden: bool = True, load: Load = load
    ) -> None:
        self._arguments = dict(arguments)
        self._load_model = load
        self._golden = golden
        self.template = template
        self.ended: Ended = _nobody
        self.give_up: Callable[[CfbusError], None] = _log_only
        self.revision = ""
        self.max_model_len = 0
        self.deaths = 0
        self._log = logs.get_logger()
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="vllm-host", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        # All that follows belongs to the loop's thread.
        self._running: Running | None = None
        self._asker: Asker | None = None
        self._tasks: dict[Job, asyncio.Task[tuple[Caption, ...]]] = {}
        self._waiting: deque[Job] = deque()
        self._fallen: list[Job] = []
        self._suspects: Suspects[Job] = Suspects()
        self._in_a_row = 0
        self._stalled = False
        self._reviving: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Load the model; takes seconds to minutes. Raises ConfigError when it cannot be loaded."""
        self._thread.start()
        self._loaded.result()

    def check(self, sampling: Sampling) -> None:
        """Raises ConfigError when the loaded vLLM cannot write captions like this."""
        running = self._running
        try:
            if running is not None:
                running.check(sampling)
        except RequestRefusedError as error:
            raise ConfigError(
                f"vLLM does not take this sampling: {error}",
                "Look at vllm.sampling, and at the sampling of slots and stages.",
            ) from None

    def begin(self, job: Job) -> None:
        """Write the captions of this job."""
        self._soon(self._admit, job)

    def drop(self, job: Job) -> None:
        """Nobody needs this job any more."""
        job.dropped = True
        self._soon(self._drop, job)

    def figures(self) -> EngineFigures | None:
        """What the loaded model says of itself; None while it is being built anew."""
        running = self._running
        if running is None or self._reviving is not None:
            return None
        return running.figures(len(self._tasks))

    def close(self) -> None:
        """Drop everything and end the model; takes a few seconds at most."""
        self._soon(self._stop)
        self._thread.join(CLOSE_SECONDS)

    def _soon(self, function: Callable[..., None], *arguments: Job) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # ------------------------------------------------------------------ the thread

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        error = await self._load()
        if error is not None:
            self._loaded.set_exception(explained(error, self._arguments))
            return
        self._loaded.set_result(None)
        while not self._ending.is_set():
            try:
                await asyncio.wait_for(self._ending.wait(), LOOK_SECONDS)
            except TimeoutError:
                self._look()
        await self._end()

    async def _load(self) -> BaseException | None:
        """Load, in this thread; nothing else can happen in it meanwhile. Returns what went wrong."""
        began = time.monotonic()
        task = asyncio.create_task(self._loading())
        await asyncio.wait({task})
        error = task.exception()
        if error is None:
            self._log.info("vllm.loaded", model=str(self._arguments["model"]), seconds=round(time.monotonic() - began))
        return error

    async def _loading(self) -> None:
        running = self._load_model(self._arguments)
        self._running, self._asker = running, Asker(running, self.template)
        if self._golden:
            await golden_check(self._asker, self.template)
        self.revision = str(getattr(getattr(running.model_config, "hf_config", None), "_commit_hash", None) or "")
        if self.revision:  # should the model be built anew, it is this one, whatever its branch is by then
            self._arguments |= dict.fromkeys(("revision", "code_revision", "tokenizer_revision"), self.revision)
        self.max_model_len = int(getattr(running.model_config, "max_model_len", 0) or 0)

    async def _end(self) -> None:
        tasks = list(self._tasks.values())
        if self._reviving is not None:
            tasks.append(self._reviving)  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_running()

    def _close_running(self) -> None:
        running, self._running, self._asker = self._running, None, None
        if running is not None:
            running.close()

    def _stop(self) -> None:
        self._ending.set()

    # ------------------------------------------------------------------ jobs

    def _admit(self, job: Job) -> None:
        if job.dropped or self._ending.is_set():
            return
        self._waiting.append(job)
        self._go_on()

    def _drop(self, job: Job) -> None:
        task = self._tasks.get(job)
        if task is not None:
            task.cancel()
            return
        self._suspects.drop(job)
        self._go_on()

    def _go_on(self) -> None:
        """Begin what may begin: one group of suspects, or all that waits."""
        if self._fallen or self._asker is None:
            return
        for job in self._suspects.next_group():
            self._begin(job)
        while self._waiting and not self._suspects.any:
            job = self._waiting.popleft()
            if not job.dropped:
                self._begin(job)

    def _begin(self, job: Job) -> None:
        assert self._asker is not None
        if not self._tasks:
            self._asker.heard = time.monotonic()
        task = asyncio.create_task(self._asker.captions(job))
        self._tasks[job] = task
        task.add_done_callback(functools.partial(self._done, job))

    def _done(self, job: Job, task: asyncio.Task[tuple[Caption, ...]]) -> None:
        del self._tasks[job]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, EngineDownError) or (self._stalled and task.cancelled()):
            self._fallen.append(job)
        elif task.cancelled():
            self._suspects.drop(job)
        else:
            self._suspects.clear(job)
            self._in_a_row = 0
            self._settle(job, task, error)
        if self._fallen and not self._tasks and self._reviving is None and not self._ending.is_set():
            self._reviving = asyncio.create_task(self._revive())
        self._go_on()

    def _settle(self, job: Job, task: asyncio.Task[tuple[Caption, ...]], error: BaseException | None) -> None:
        if error is None:
            self.ended(job, task.result(), None)
        elif isinstance(error, RequestRefusedError):
            self.ended(job, None, failed(job, "request-refused", str(error), "item"))
        else:
            self._log.error("vllm.bug", error=repr(error))
            self.ended(job, None, failed(job, "engine-failed", repr(error), "worker"))

    # ------------------------------------------------------------------ deaths

    def _look(self) -> None:
        """Is it alive? An engine that hangs is as dead as one that has ended."""
        if self._asker is not None and self._tasks and time.monotonic() - self._asker.heard > STALL_SECONDS:
            self._log.error("vllm.stalled", seconds=STALL_SECONDS, in_flight=len(self._tasks))
            self._stalled = True
            for task in self._tasks.values():
                task.cancel()

    async def _revive(self) -> None:
        self.deaths += 1
        self._in_a_row += 1
        for job in self._fallen:
            if job.dropped:
                self._suspects.drop(job)
        fallen = [job for job in self._fallen if not job.dropped]
        guilty = self._suspects.died(fallen)
        self._log.error("vllm.died", in_flight=len(fallen), deaths=self.deaths, found=guilty is not None)
        if guilty is not None:
            detail = "vLLM's engine ended twice or more while it had this item, and this one alone at last."
            self.ended(guilty, None, failed(guilty, "engine-died", detail, "item"))
        self._close_running()
        error: BaseException | None = None
        for seconds in BACK_OFF_SECONDS if self._in_a_row <= MAX_DEATHS else ():
            await asyncio.sleep(seconds)
            error = await self._load()
            if error is None:
                self._fallen, self._stalled, self._reviving = [], False, None
                self._go_on()
                return
            self._log.error("vllm.not_built", error=str(error)[:_MAX_DETAIL])
        why = str(error) if error else f"it died {self._in_a_row} times without a single finished item."
        self.give_up(TryAgainError(f"vLLM could not be brought back: {why}", "Its own words are in the log above."))


def failed(job: Job, reason: str, detail: str, fault: str) -> FailedItem:
    """Why there is no caption."""
    said = detail.encode("utf-8", "backslashreplace").decode()[:_MAX_DETAIL]
    return FailedItem.model_validate({"index": job.item.index, "reason": reason, "detail": said, "fault": fault})


def explained(error: BaseException, arguments: Mapping[str, Value]) -> CfbusError:
    """What vLLM raised at load, as a sentence and what to do."""
    if isinstance(error, CfbusError):
        return error
    text = " ".join(str(error).split())[:_MAX_DETAIL] or type(error).__name__
    memory = any(word in text.lower() for word in ("out of memory", "memory", "kv cache", "initialization failed"))
    hint = (
        "If the GPU's memory ran out: lower vllm.max_model_len and vllm.max_num_seqs, lower"
        " vllm.gpu_memory_utilization where others use the GPU, or raise vllm.tensor_parallel_size."
        if memory
        else "Look at the keys of the section vllm; vLLM's own words are in the log above."
    )
    return ConfigError(f"vLLM cannot load {arguments['model']}: {text}", hint)


def _nobody(job: Job, captions: tuple[Caption, ...] | None, failure: FailedItem | None) -> None:
    """Until an engine listens, nobody does."""


def _log_only(error: CfbusError) -> None:
    logs.get_logger().error("vllm.given_up", error=str(error))
