"""All captions of one item: rounds of requests to a loaded model, and what they say about what was written.

Knows a `Running` model and its template; no lease, no thread, no picture's file.

Invariants: a caption comes after those that its prompt holds; the requests of a round that see the image wait until
the first of them has written a token, so that image and system text are computed once; a text is kept as it came.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cfbus.bus.columns import FLAGS, NO_SEED
from cfbus.bus.fields import Sampling, Slot, Spec
from cfbus.core.outcome import Caption, WorkItem
from cfbus.core.prompts import SKIPPED, filled
from cfbus.core.stages import named_results, rounds_of, sees_image
from cfbus.engines.pictures import as_image
from cfbus.engines.remarks import flags_of
from cfbus.engines.vllm_running import EngineDownError, Output, Running, Wanted
from cfbus.images import Picture

NOT_ASKED = Caption("", SKIPPED, flags=1 << FLAGS.index("empty"))


@dataclass(slots=True, eq=False)
class Job:
    """An item on its way through a model."""

    item: WorkItem
    spec: Spec
    columns: Mapping[str, object] = field(default_factory=dict)  # cleaned, those that prompts have places for
    picture: Picture | None = None
    url: str = ""
    metadata: str = ""
    milliseconds: float = 0.0  # for reading and decoding
    since: float = 0.0  # when it was handed to the model
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    slot: Slot
    tokens: Sequence[int]
    image: bool


class Template(Protocol):
    """What a model's template can do, see `cfbus.engines.vllm_template`."""

    def tokens(self, system: str, prompt: str, image: bool) -> Sequence[int]:
        """The tokens of a request."""

    def clean(self, text: str) -> str:
        """Text without special tokens."""

    def cleaned(self, columns: Mapping[str, object]) -> dict[str, object]:
        """Columns as such texts."""

    def check_system(self, system: str) -> None:
        """Raises ConfigError when there is no place for it."""


class Asker:
    """Asks a model."""

    def __init__(self, running: Running, template: Template) -> None:
        self._running = running
        self._template = template
        self._numbers = itertools.count(1)
        self.heard = time.monotonic()
        """When the model last wrote anything."""

    async def captions(self, job: Job) -> tuple[Caption, ...]:
        """A caption for each slot of the item, in their order. Raises EngineDownError or RequestRefusedError."""
        found: dict[str, Caption] = {}
        for slots in rounds_of(job.spec, job.item.slots):
            requests = []
            for slot in slots:
                prompt = self._prompt(job, slot, found)
                image = sees_image(job.spec, slot)
                if prompt is None:
                    found[slot.name] = NOT_ASKED
                else:
                    requests.append(_Request(slot, self._template.tokens(job.spec.system, prompt, image), image))
            found |= await self._round(job, requests)
        return tuple(found[name] for name in job.item.slots)

    def _prompt(self, job: Job, slot: Slot, found: Mapping[str, Caption]) -> str | None:
        texts = {name: self._template.clean(caption.text) for name, caption in found.items()}
        return filled(slot.prompt, job.columns, job.spec.missing_column, named_results(job.spec, slot, texts))

    async def _round(self, job: Job, requests: Sequence[_Request]) -> dict[str, Caption]:
        if len(requests) == 1:
            return {requests[0].slot.name: await self._one(job, requests[0])}
        seeing = sorted(requests, key=lambda request: not request.image)
        let_through = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    request.slot.name: group.create_task(self._one(job, request, let_through, first=not number))
                    for number, request in enumerate(seeing)
                }
        except ExceptionGroup as several:
            raise _gravest(several) from several
        return {name: task.result() for name, task in tasks.items()}

    async def _one(
        self, job: Job, request: _Request, let_through: asyncio.Event | None = None, *, first: bool = False
    ) -> Caption:
        if let_through is not None and request.image and not first:
            await let_through.wait()
        tells = let_through if first else None
        sampling = request.slot.sampling
        assert sampling is not None
        output = await self.last_output(_prompt_of(job, request), Wanted(sampling, each_token=tells is not None), tells)
        return caption_of(output, sampling)

    async def last_output(
        self, prompt: Mapping[str, object], wanted: Wanted, tells: asyncio.Event | None = None
    ) -> Output:
        """What the model has written at the end; ``tells`` is set when it has written something."""
        last: Output | None = None
        async for output in self._running.generate(prompt, wanted, f"cfbus-{next(self._numbers)}"):
            last, self.heard = output, time.monotonic()
            if tells is not None:
                tells.set()
        if last is None or not last.outputs:
            raise EngineDownError("a request ended without an output")
        return last


def _prompt_of(job: Job, request: _Request) -> dict[str, object]:
    prompt: dict[str, object] = {"prompt_token_ids": list(request.tokens)}
    if request.image:
        assert job.picture is not None
        prompt |= seen(job.picture)
    return prompt


def seen(picture: Picture) -> dict[str, object]:
    """The picture as a part of a prompt. Its name holds its size: the same file may be scaled in another way later."""
    name = f"{picture.sha256.hex()}-{picture.width}x{picture.height}"
    return {"multi_modal_data": {"image": as_image(picture)}, "multi_modal_uuids": {"image": [name]}}


def caption_of(output: Output, sampling: Sampling) -> Caption:
    """A finished request as rows say it."""
    written = output.outputs[0]
    count = len(written.token_ids)
    total = written.cumulative_logprob
    reason = str(written.finish_reason or "unknown")
    return Caption(
        text=written.text,
        finish_reason=reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        output_tokens=count,
        mean_logprob=total / count if total is not None and count else float("nan"),
        seed=NO_SEED if sampling.seed is None else sampling.seed,
        flags=flags_of(written.text, reason),
    )


def _gravest(several: ExceptionGroup[Exception]) -> Exception:
    """Of what went wrong with the requests of an item: an engine that is down before all else."""
    found: list[Exception] = []
    todo: list[Exception] = [several]
    while todo:
        each = todo.pop(0)
        if isinstance(each, ExceptionGroup):
            todo += each.exceptions
        else:
            found.append(each)
    return next((each for each in found if isinstance(each, EngineDownError)), found[0])
