"""A model that is none: text of a fixed length, at once or after a fixed time for a batch. Both sides of the comparison
use it, so that what is measured is the orchestration around a model.

It stands alone (a copy of it is put on another program's path, in place of `vllm` and `transformers`), and knows what
little of these two modules a captioner asks for before it calls ``generate``. Each batch adds a line to the file that
STUB_LOG names, in one write, so that what a killed worker had generated is known: when, and how many captions.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Sequence
from typing import Any

CHARS = int(os.environ.get("STUB_CHARS", "300"))
BATCH_SECONDS = float(os.environ.get("STUB_BATCH_SECONDS", "0"))
DECODES = os.environ.get("STUB_DECODES", "1") == "1"
_WORDS = (
    "amber", "brisk", "cedar", "delta", "ember", "fjord", "grove", "harbor", "island", "juniper", "kettle", "lantern",
    "meadow", "nectar", "orchid", "pebble", "quartz", "river", "saffron", "timber", "umber", "violet", "willow",
)  # fmt: skip
_numbers = itertools.count()
_dice = random.Random(os.getpid())


def text() -> str:
    """Another one at each call: words by chance, of equal length."""
    words = _dice.choices(_WORDS, k=CHARS // 5 + 1)
    return f"{next(_numbers)} {' '.join(words)}"[:CHARS].ljust(CHARS, "x")


def note(captions: int) -> None:
    """Remember that so many were generated now."""
    path = os.environ.get("STUB_LOG")
    if path:
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{time.time()} {captions}\n".encode())
        os.close(log)


class _Text:
    def __init__(self) -> None:
        self.text = text()
        self.token_ids = (1, 2)
        self.finish_reason = "stop"
        self.cumulative_logprob = None


class _Answer:
    def __init__(self) -> None:
        self.outputs = [_Text()]


class LLM:
    """In place of vLLM's: a call is a batch."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def generate(self, inputs: Sequence[dict[str, Any]], sampling: object = None, **_: Any) -> list[_Answer]:
        """An answer for each, when the pictures have been decoded, as a model needs them."""
        if DECODES:
            for one in inputs:
                for picture in one.get("multi_modal_data", {}).get("image", ()):
                    picture.load()
        if BATCH_SECONDS:
            time.sleep(BATCH_SECONDS)
        answers = [_Answer() for _ in inputs]
        note(len(answers))
        return answers


class SamplingParams:
    """Keeps whatever it is told."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments


class EngineArgs:
    """Takes the arguments that the caller wants to know to be taken."""

    def __init__(self, model: str = "", **arguments: Any) -> None:
        self.arguments = arguments


class AutoTokenizer:
    """In place of the one of `transformers`: a token for each word."""

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> AutoTokenizer:
        return cls()

    def encode(self, prompt: str) -> list[int]:
        return [1] * len(prompt.split())


class AutoProcessor:
    """In place of the one of `transformers`: nothing is asked of it."""

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> AutoProcessor:
        return cls()
