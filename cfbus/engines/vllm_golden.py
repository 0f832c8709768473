"""The golden check: a loaded model captions a picture, another one, and the first again from its caches.

What is cached must change nothing: the first token of the second time must be one of those that were likeliest the
first time. (Not the same one: with 16-bit numbers two near ties may change places.) It finds caches that are keyed
wrongly and weights that give not-a-number; it says nothing about how good captions are.
"""

from __future__ import annotations

import hashlib
import math

from cfbus.bus.fields import Sampling
from cfbus.engines.vllm_asking import Asker, Template, seen
from cfbus.engines.vllm_running import Output, Wanted
from cfbus.errors import ConfigError
from cfbus.images import Picture

SIZE = 224
LIKELIEST = 5
_GREEDY = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, max_tokens=4, repetition_penalty=1.0, presence_penalty=0.0,
    frequency_penalty=0.0, stop=(), seed=None, skip_special_tokens=True,
)  # fmt: skip


def drawn(turned: bool) -> Picture:
    """A made-up picture: two ramps and an edge; the other is the same with its colours turned."""
    rows = bytearray()
    for y in range(SIZE):
        for x in range(SIZE):
            pixel = (x, y, 220 if x > y else 30)
            rows += bytes(reversed(pixel) if turned else pixel)
    pixels = bytes(rows)
    return Picture(SIZE, SIZE, pixels, SIZE, SIZE, "PNG", len(pixels), hashlib.sha256(pixels).digest())


async def golden_check(asker: Asker, template: Template) -> None:
    """Raises ConfigError when the model does not pass."""
    tokens = list(template.tokens("", "Describe this image.", True))
    greedy = Wanted(_GREEDY, logprobs=LIKELIEST)
    first, other = (seen(drawn(turned)) for turned in (False, True))
    once = await asker.last_output({"prompt_token_ids": tokens, **first}, greedy)
    await asker.last_output({"prompt_token_ids": tokens, **other}, greedy)
    again = await asker.last_output({"prompt_token_ids": tokens, **first}, greedy)
    problem = problem_of(once, again)
    if problem:
        raise ConfigError(
            f"The loaded model does not pass its check: {problem}.",
            "Try vllm.enable_prefix_caching: false, another vllm.dtype or another version of vLLM;"
            " vllm.golden_check: false goes on without the check.",
        )


def problem_of(once: Output, again: Output) -> str:
    """What is wrong with two captions of one picture, the second from caches; empty if nothing is."""
    for output in (once, again):
        written = output.outputs[0]
        if not written.token_ids:
            return "it writes nothing"
        if written.cumulative_logprob is None or not math.isfinite(written.cumulative_logprob):
            return "the probabilities of its tokens are no numbers"
    likeliest = (once.outputs[0].logprobs or [{}])[0]
    if again.outputs[0].token_ids[0] not in likeliest:
        return f"a picture that it has seen before begins with a token that was not among the {LIKELIEST} likeliest"
    return ""
