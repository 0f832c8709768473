"""A scripted model: what implements the ports `Running` and `Template` without vLLM, to die and hang on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cfbus.bus.fields import Sampling
from cfbus.bus.figures import EngineFigures
from cfbus.config_file import Value
from cfbus.engines.vllm_running import EngineDownError, Output, RequestRefusedError, Wanted, Written
from cfbus.images import Picture


@dataclass
class Text(Written):
    text: str
    token_ids: Sequence[int] = (1, 2)
    cumulative_logprob: float | None = -1.0
    logprobs: Sequence[Mapping[int, object]] | None = ({1: 0.0},)
    finish_reason: str | None = "stop"


@dataclass
class Answer(Output):
    request_id: str
    outputs: Sequence[Written]
    prompt_token_ids: Sequence[int] | None = (1,)
    finished: bool = True


@dataclass
class Script:
    """What the models of a host do, one after the other as they are built."""

    deadly: frozenset[str] = frozenset()  # pictures that kill the engine once they are in it
    refused: frozenset[str] = frozenset()
    deaths: int = 0  # the first so many models die at their first request
    unbuilt: int = 0  # so many attempts to build one fail, after the first
    hanging: int = 0  # the first so many models never write anything
    pause: float = 0.0  # seconds from a request to its answer
    dying: Callable[[], None] = lambda: None  # called when a model dies
    built: int = 0
    closed: int = 0
    together: list[int] = field(default_factory=list)  # how many requests were in the engine at each one's start
    asked: list[str] = field(default_factory=list)

    def load(self, arguments: Mapping[str, Value]) -> ScriptedModel:
        if self.built and self.unbuilt:
            self.unbuilt -= 1
            raise RuntimeError("Engine core initialization failed.")
        self.built += 1
        return ScriptedModel(self, self.built)


class ScriptedModel:
    """Writes the name of the picture that it is shown, or the prompt."""

    model_config = None

    def __init__(self, script: Script, number: int) -> None:
        self._script = script
        self._number = number
        self._down = asyncio.Event()
        self._inside = 0

    async def generate(self, prompt: Mapping[str, object], wanted: Wanted, name: str) -> AsyncIterator[Output]:
        script = self._script
        uuids = prompt.get("multi_modal_uuids")
        picture = str(uuids["image"][0]).partition("-")[0] if isinstance(uuids, dict) else ""
        script.asked.append(picture)
        if picture in script.refused:
            raise RequestRefusedError("ValueError: too odd a picture")
        self._inside += 1
        script.together.append(self._inside)
        try:
            if picture in script.deadly or self._number <= script.deaths:
                await asyncio.sleep(0)
                script.dying()
                self._down.set()
            if self._number <= script.hanging:
                await asyncio.Event().wait()
            dying = asyncio.ensure_future(self._down.wait())
            await asyncio.wait({dying}, timeout=script.pause)
            dying.cancel()
            if self._down.is_set():
                raise EngineDownError
            yield Answer(name, [Text(picture)])
        finally:
            self._inside -= 1

    def check(self, sampling: Sampling) -> None:
        """Any will do."""

    def figures(self, items: int) -> EngineFigures:
        """As many requests as are in it."""
        return EngineFigures(running=self._inside)

    def close(self) -> None:
        self._script.closed += 1


class PlainTemplate:
    """A template that counts letters."""

    def tokens(self, system: str, prompt: str, image: bool) -> Sequence[int]:
        return [ord(letter) for letter in f"{system}{image}{prompt}"]

    def clean(self, text: str) -> str:
        return text.replace("<|end|>", " ")

    def cleaned(self, columns: Mapping[str, object]) -> dict[str, object]:
        return {name: self.clean(str(value)) for name, value in columns.items() if value is not None}

    def check_system(self, system: str) -> None:
        """All are welcome."""


def picture(number: int) -> Picture:
    """A tiny picture with a name of its own: `name_of`."""
    return Picture(1, 1, b"abc", 1, 1, "PNG", 3, hashlib.sha256(str(number).encode()).digest())


def name_of(number: int) -> str:
    return picture(number).sha256.hex()
