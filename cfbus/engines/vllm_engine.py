"""The engine ``vllm`` behind the engines' port: items are read and decoded ahead, and captioned one by one.

Knows the port, the feed and the host of a loaded model. One model per daemon, the one of the worker's own
configuration: a spec that wants another is refused with a sentence.

Invariants: an item's outcome is posted once, by whoever takes its job out of the table; none after `close`; a spec
holds for the items that are submitted after it was taken into use.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence

from cfbus import logs
from cfbus.bus.figures import EngineFigures
from cfbus.bus.messages import FailedItem, Spec
from cfbus.config_vllm import Vllm
from cfbus.core.outcome import Caption, EngineFacts, ImageFacts, Outcome, WorkItem
from cfbus.core.prompts import columns_in
from cfbus.core.stages import rounds_of
from cfbus.decoding import DecodePool
from cfbus.engines.asking import asked, spec_for
from cfbus.engines.base import Loaded, Post, Read
from cfbus.engines.feed import Fed, Feed
from cfbus.engines.pictures import unchanged
from cfbus.engines.vllm_asking import Job
from cfbus.engines.vllm_host import Host, failed
from cfbus.errors import ConfigError
from cfbus.images import Picture
from cfbus.sources.base import DISK_READERS

Key = tuple[str, int]


class VllmEngine:
    """Captions with a vision-language model. ``keep_host``: the host is somebody else's to close."""

    def __init__(
        self,
        host: Host,
        vllm: Vllm,
        version: str,
        read: Read,
        pool: DecodePool,
        post: Post,
        *,
        readers: int = DISK_READERS,
        keep_host: bool = False,
    ) -> None:
        self._host = host
        self._vllm = vllm
        self._version = version
        self._post = post
        self._keep_host = keep_host
        self._spec: Spec | None = None
        self._state = threading.Lock()  # guards what follows
        self._jobs: dict[Key, Job] = {}
        host.ended = self._ended
        self._feed: Feed[Picture] = Feed(read, pool, self._fed, readers)

    @property
    def facts(self) -> EngineFacts:
        """See ``Engine.facts``; the revision is the commit where the hub tells it."""
        return EngineFacts(f"vllm {self._version}", self._vllm.model, self._host.revision or self._vllm.revision)

    def use(self, spec: Spec) -> None:
        """See ``Engine.use``. Raises ConfigError for what this worker's own configuration does not allow."""
        self._check(spec)
        self._spec = spec

    def _check(self, spec: Spec) -> None:
        model = spec.model
        if model is None or (model.name, model.revision) != (self._vllm.model, self._vllm.revision):
            wanted = f"{model.name} {model.revision}".strip() if model else "none"
            raise ConfigError(
                f"The broker wants captions by the model {wanted}; this worker has"
                f" {f'{self._vllm.model} {self._vllm.revision}'.strip()}.",
                "A worker runs only the model of its own configuration: vllm.model and vllm.revision.",
            )
        if any(slot.sampling is None for slot in spec.slots):
            raise ConfigError("The broker's spec does not say how captions are sampled.", "Update the broker.")
        self._host.template.check_system(spec.system)
        for slot in spec.slots:
            if slot.sampling is not None:
                self._host.check(slot.sampling)
        longest = max(slot.sampling.max_tokens for slot in spec.slots if slot.sampling)
        if longest >= self._host.max_model_len > 0:
            logs.get_logger().warning(
                "vllm.max_tokens", wanted=longest, max_model_len=self._host.max_model_len,
                says="captions end where this worker's vllm.max_model_len ends",
            )  # fmt: skip

    def submit(self, items: Sequence[WorkItem]) -> None:
        """See ``Engine.submit``."""
        spec = self._spec
        assert spec is not None
        for item in items:
            by = spec_for(spec, item)
            if isinstance(by, FailedItem):
                self._post(Outcome(item.lease, item.index, failure=by))
                continue
            job = Job(item, by)
            with self._state:
                self._jobs[item.lease, item.index] = job
            self._feed.put(item, functools.partial(self._plan, job))

    def abandon(self, lease: str, indices: frozenset[int]) -> None:
        """See ``Engine.abandon``."""
        for index in indices:
            with self._state:
                job = self._jobs.pop((lease, index), None)
            if job is not None:
                self._host.drop(job)

    def figures(self) -> EngineFigures | None:
        """See ``Engine.figures``."""
        figures = self._host.figures()
        reading, decoding = self._feed.counts()
        return figures and figures.model_copy(update={"reading": reading, "decoding": decoding})

    def close(self) -> None:
        """See ``Engine.close``."""
        self._feed.close()
        with self._state:
            left = list(self._jobs.values())
        for job in left:
            self._host.drop(job)
            self._ended(job, None, failed(job, "closed", "The worker stopped before it was done.", "worker"))
        if not self._keep_host:
            self._host.close()

    # ------------------------------------------------------------------ on the way

    def _plan(self, job: Job, loaded: Loaded) -> Callable[[Picture], Picture]:
        """In a thread of the feed: what the item's columns say is settled before its picture is decoded."""
        slots = [slot for each in rounds_of(job.spec, job.item.slots) for slot in each]
        asked(job.spec, [slot.name for slot in slots], loaded.columns)  # raises what a missing column means
        names = {name for slot in slots for name in columns_in(slot.prompt)}
        job.columns = self._host.template.cleaned({name: loaded.columns.get(name) for name in names})
        return unchanged

    def _fed(self, fed: Fed[Picture]) -> None:
        with self._state:
            job = self._jobs.get((fed.item.lease, fed.item.index))
        if job is None:
            return
        job.milliseconds, job.url, job.metadata, job.picture = fed.milliseconds, fed.url, fed.metadata, fed.made
        job.since = time.monotonic()
        if fed.failure is not None:
            self._ended(job, None, fed.failure)
        else:
            self._host.begin(job)

    def _ended(self, job: Job, captions: tuple[Caption, ...] | None, failure: FailedItem | None) -> None:
        item = job.item
        with self._state:
            if self._jobs.get((item.lease, item.index)) is not job:
                return
            del self._jobs[item.lease, item.index]
        took = job.milliseconds + ((time.monotonic() - job.since) * 1000 if job.since else 0.0)
        outcome = Outcome(
            item.lease, item.index, captions or (), failure, _facts_of(job.picture), took, job.url, job.metadata
        )
        self._post(outcome)


def _facts_of(picture: Picture | None) -> ImageFacts:
    if picture is None:
        return ImageFacts()
    size = picture.original_width, picture.original_height
    return ImageFacts(*size, picture.format, picture.file_size, picture.sha256)
