"""What tests of engines share: specs, items, and a place where outcomes arrive and can be awaited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from engine_vllm import MODEL

from cfbus.bus.fields import Model, Sampling
from cfbus.bus.messages import Slot, Spec
from cfbus.core.outcome import Outcome, WorkItem

LEASE = "00000000000000aa"


def greedy(max_tokens: int = 24) -> Sampling:
    """The likeliest token, always."""
    return Sampling(
        temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, max_tokens=max_tokens, repetition_penalty=1.0,
        presence_penalty=0.0, frequency_penalty=0.0, stop=(), seed=None, skip_special_tokens=True,
    )  # fmt: skip


def spec_of(engine: str, prompts: dict[str, str], **options: float) -> Spec:
    """A spec with these slots; its hash is made up. For vLLM a token stands for 20 of an option ``length``."""
    sampling = greedy(int(options.get("length", 480)) // 20) if engine == "vllm" else None
    fields = {
        "hash": "0" * 16,
        "engine": engine,
        "options": tuple(options.items()),
        "pixel_budget": 1 << 20,
        "max_pixels": 100_000_000,
        "model": Model(name=str(MODEL), revision="") if sampling else None,
        "slots": tuple(
            Slot(name=name, prompt=prompt, prompt_id=name, sampling=sampling) for name, prompt in prompts.items()
        ),
    }
    return Spec.model_validate(fields)


def items_of(count: int, slots: Iterable[str] = ("short",), start: int = 0) -> list[WorkItem]:
    return [
        WorkItem(LEASE, "made-up-00000", index, f"item-{index:05d}", b"", tuple(slots))
        for index in range(start, start + count)
    ]


class Outcomes:
    """Takes outcomes from any thread."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self.all: list[Outcome] = []

    def post(self, outcome: Outcome) -> None:
        with self._state:
            self.all.append(outcome)
            self._state.notify_all()

    def wait(self, until: Callable[[list[Outcome]], bool], seconds: float = 60) -> list[Outcome]:
        with self._state:
            assert self._state.wait_for(lambda: until(self.all), seconds), f"only {len(self.all)} outcomes came"
            return list(self.all)

    def wait_for(self, count: int, seconds: float = 60) -> dict[int, Outcome]:
        """By index, when there are ``count``; fails at a doubled one."""
        found = self.wait(lambda all_: len(all_) >= count, seconds)
        assert len(found) == count
        by_index = {outcome.index: outcome for outcome in found}
        assert len(by_index) == count, "an item came out twice"
        return by_index


def blame(outcome: Outcome) -> tuple[str, str]:
    """(reason, fault) of a failure."""
    assert outcome.failure is not None
    assert outcome.failure.index == outcome.index
    assert outcome.captions == ()
    return outcome.failure.reason, outcome.failure.fault
