"""What is asked of a model, in the form that it was trained on: the chat template of its own processor.

Knows no family of models: where the image goes, what a system text looks like and which tokens are special is known
by the processor that comes with the model.

Invariants: system text, then image, then prompt, so that what is the same for many requests comes first; text that
came from data holds no special token of the model.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from cfbus.core.prompts import as_text
from cfbus.errors import ConfigError

_RENDERED: Final = 256  # prompts without columns are the same for every item
_REFUSALS: Final = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


class Processor(Protocol):
    """What comes with a model to prepare its input; often with a ``tokenizer``, or one itself."""

    def apply_chat_template(self, messages: Sequence[object], *, tokenize: bool, add_generation_prompt: bool) -> object:
        """What was said, in the form that the model knows."""


class ModelTemplate:
    """A model's chat template and tokenizer."""

    def __init__(self, model: str, revision: str, *, trust_remote_code: bool) -> None:
        self._model = model
        self._processor = _processor(model, revision, trust_remote_code)
        self._tokenizer: Any = getattr(self._processor, "tokenizer", self._processor)
        self._special = _special(self._tokenizer)
        self._cached = functools.lru_cache(_RENDERED)(self._tokens)
        self._check()

    def cleaned(self, columns: Mapping[str, object]) -> dict[str, object]:
        """The texts of columns, or of earlier captions, with a blank for each special token."""
        return {name: self.clean(as_text(value)) for name, value in columns.items() if value is not None}

    def clean(self, text: str) -> str:
        """Data must not be able to end its turn and speak as somebody else."""
        return self._special.sub(" ", text) if self._special is not None else text

    def tokens(self, system: str, prompt: str, image: bool) -> Sequence[int]:
        """The tokens of one request."""
        return self._cached(system, prompt, image)

    def _tokens(self, system: str, prompt: str, image: bool) -> Sequence[int]:
        text = self._render(system, prompt, image)
        return list(self._tokenizer.encode(text, add_special_tokens=False))  # the template writes them itself

    def _render(self, system: str, prompt: str, image: bool) -> str:
        said: list[dict[str, str]] = [{"type": "text", "text": prompt}]
        messages: list[dict[str, Any]] = [{"role": "system", "content": [{"type": "text", "text": system}]}]
        asked = [{"role": "user", "content": [{"type": "image"}, *said] if image else said}]
        rendered = self._processor.apply_chat_template(
            (messages if system else []) + asked, tokenize=False, add_generation_prompt=True
        )
        return str(rendered)

    def _check(self) -> None:
        """The template must show the image and the prompt; what it does with both is its own business."""
        seen, blind = (self._tried("", "A prompt.", image) for image in (True, False))
        if seen == blind or "A prompt." not in seen:
            raise ConfigError(
                f"The chat template of {self._model} has no place for an image and a prompt.",
                "Choose a vision-language model whose processor has one (vllm.model).",
            )

    def check_system(self, system: str) -> None:
        """Raises ConfigError when this model's template knows no system text."""
        if system and system not in self._tried(system, "A prompt.", image=True):
            raise ConfigError(
                f"The chat template of {self._model} has no place for a system text.",
                "Leave captions.system out, and say it in the prompts.",
            )

    def _tried(self, system: str, prompt: str, image: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self._render(system, prompt, image)
        except (TemplateError, *_REFUSALS) as error:
            raise ConfigError(
                f"The chat template of {self._model} cannot be used: {type(error).__name__}: {error}",
                "Choose a vision-language model whose processor has a chat template (vllm.model)."
                + (" Or leave captions.system out." if system else ""),
            ) from None


def _processor(model: str, revision: str, trust_remote_code: bool) -> Processor:
    from transformers import AutoProcessor, AutoTokenizer

    how = {"revision": revision or None, "trust_remote_code": trust_remote_code}
    try:
        processor = AutoProcessor.from_pretrained(model, **how)
        if getattr(processor, "chat_template", None):
            return cast(Processor, processor)
        return cast(Processor, AutoTokenizer.from_pretrained(model, **how))
    except _REFUSALS as error:
        raise ConfigError(
            f"The processor of {model} cannot be loaded: {type(error).__name__}: {error}",
            "Look at vllm.model and vllm.revision; a model that is not public needs HF_TOKEN in the environment.",
        ) from None


def _special(tokenizer: object) -> re.Pattern[str] | None:
    """All that the tokenizer reads as a token of its own: what is marked special, and what was added."""
    tokens = set(map(str, getattr(tokenizer, "all_special_tokens", ())))
    tokens |= set(getattr(tokenizer, "get_added_vocab", dict)())
    longest_first = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
