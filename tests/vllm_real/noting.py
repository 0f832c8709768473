"""Writes down the tokens of a real worker: a plugin of vLLM's own kind (`plugins`), for tests alone.

For each caption a line of JSON in the file that CFBUS_TEST_TOKENS names: the item and the slot that the worker makes
it for, the tokens of its prompt, and those that vLLM wrote, as they were when the caption was made of them.
"""

from __future__ import annotations

import json
import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

FILE: Final = "CFBUS_TEST_TOKENS"
_caption: ContextVar[tuple[str, str]] = ContextVar("caption")


def register() -> None:
    """vLLM calls this in each process before it loads a model; again and again, in some."""
    from cfbus.engines import vllm_asking

    one, caption_of = vllm_asking.Asker._one, vllm_asking.caption_of
    if hasattr(caption_of, "notes"):
        return

    async def noting(self: Any, job: Any, request: Any, *more: Any, **named: Any) -> Any:
        _caption.set((job.item.key, request.slot.name))  # each caption has a task of its own, or its job's task alone
        return await one(self, job, request, *more, **named)

    def noted(output: Any, sampling: Any) -> Any:
        prompt, written = list(output.prompt_token_ids), list(output.outputs[0].token_ids)
        with Path(os.environ[FILE]).open("a") as file:
            file.write(json.dumps([*_caption.get(), prompt, written]) + "\n")
        return caption_of(output, sampling)

    noted.notes = True  # type: ignore[attr-defined]
    vllm_asking.Asker._one = noting  # type: ignore[method-assign]
    vllm_asking.caption_of = noted
