"""Outcomes to results: splitting by size, packing into tables. Pure.

Invariant: no result that ``split`` and ``pack`` make is larger than a frame may be, whatever the captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import MAX_CAPTION_BYTES, MAX_ITEM_TEXT_BYTES, RESULT_SPLIT_BYTES
from cfbus.bus.wire import checksum, encode_table
from cfbus.core.outcome import EngineFacts, Outcome
from cfbus.core.ranges import pairs_of

if TYPE_CHECKING:
    from cfbus.core.held import Use
    from cfbus.core.worker import WorkerRules

ITEM_OVERHEAD_BYTES = 80
CAPTION_OVERHEAD_BYTES = 40


def weighed(outcome: Outcome) -> tuple[Outcome, int]:
    """The outcome, or a failure in its place when its captions cannot be sent (texts are never cut); and at most how
    many bytes it takes in a frame."""
    size, plain = ITEM_OVERHEAD_BYTES, True
    if outcome.url or outcome.metadata:
        size += 4 * (len(outcome.url) + len(outcome.metadata))
    for caption in outcome.captions:
        text = caption.text
        if text.isascii():
            size += CAPTION_OVERHEAD_BYTES + len(text)
        else:
            size += CAPTION_OVERHEAD_BYTES + len(text) * 4
            plain = False
    if plain and size <= MAX_CAPTION_BYTES:
        return outcome, size
    fits = _fitting(outcome)
    return fits, size if fits is outcome else ITEM_OVERHEAD_BYTES


def _fitting(outcome: Outcome) -> Outcome:
    try:
        sizes = [len(caption.text.encode()) for caption in outcome.captions]
    except UnicodeEncodeError:
        return _unfit(outcome, "caption-not-text", "a caption holds half a character (lone surrogate)")
    if not sizes or (max(sizes) <= MAX_CAPTION_BYTES and sum(sizes) <= MAX_ITEM_TEXT_BYTES):
        return outcome
    limits = f"at most {MAX_CAPTION_BYTES} each and {MAX_ITEM_TEXT_BYTES} together"
    return _unfit(outcome, "caption-too-long", f"captions of {sum(sizes)} bytes; {limits}")


def _unfit(outcome: Outcome, reason: str, detail: str) -> Outcome:
    failure = m.FailedItem(index=outcome.index, reason=reason, detail=detail, fault="item")
    return Outcome(outcome.lease, outcome.index, failure=failure, image=outcome.image)


def split(outcomes: Sequence[Outcome], total_bytes: int) -> Iterator[list[Outcome]]:
    """Groups whose payload stays below the split size (a single item may be as large as an item can be);
    ``total_bytes`` is the sum of their weights."""
    group: list[Outcome] = []
    total = 0
    if outcomes and total_bytes <= RESULT_SPLIT_BYTES:
        yield list(outcomes)
        return
    for outcome in outcomes:
        _, size = weighed(outcome)
        if group and total + size > RESULT_SPLIT_BYTES:
            yield group
            group, total = [], 0
        group.append(outcome)
        total += size
    if group:
        yield group


def pack(
    outcomes: Sequence[Outcome],
    grant: m.Grant,
    use: Use,
    engine: EngineFacts,
    rules: WorkerRules,
    number: int,
) -> tuple[m.Result, bytes]:
    """One RESULT with its payload. ``outcomes`` ascend by index and have a caption for each slot of the grant."""
    captions = [caption for outcome in outcomes for caption in outcome.captions]
    by_name = {slot.name: slot for slot in use.spec.slots}
    images = [outcome.image for outcome in outcomes]
    table = build(
        "captions",
        len(outcomes),
        {
            "image_width": [image.width for image in images],
            "image_height": [image.height for image in images],
            "image_format": [image.format for image in images],
            "file_size": [image.file_size for image in images],
            "image_sha256": [image.sha256 for image in images],
            "processing_ms": [outcome.milliseconds for outcome in outcomes],
            "url": [outcome.url for outcome in outcomes],
            "metadata": [outcome.metadata for outcome in outcomes],
            "caption": [caption.text for caption in captions],
            "finish_reason": [caption.finish_reason for caption in captions],
            "prompt_tokens": [caption.prompt_tokens for caption in captions],
            "output_tokens": [caption.output_tokens for caption in captions],
            "mean_logprob": [caption.mean_logprob for caption in captions],
            "seed": [caption.seed for caption in captions],
            "flags": [caption.flags for caption in captions],
        },
        constants={
            "spec": use.spec.hash,
            "model": engine.model,
            "model_revision": engine.model_revision,
            "engine": engine.engine,
            "worker": rules.name,
            "generation": str(use.generation),
        },
        slots={
            "slot": grant.slots,
            "stage": tuple(by_name[name].stage for name in grant.slots),
            "prompt_id": tuple(by_name[name].prompt_id for name in grant.slots),
        },
    )
    payload = encode_table(table)
    message = m.Result(
        lease=grant.lease,
        instance=rules.instance,
        number=number,
        ranges=pairs_of(outcome.index for outcome in outcomes),
        size=len(payload),
        crc=checksum(payload),
    )
    return message, payload


def messages_of(
    finished: Sequence[tuple[Outcome, Use]],
    total: int,
    grant: m.Grant,
    engine: EngineFacts,
    rules: WorkerRules,
    number: int,
) -> Iterator[tuple[m.Result | m.Failed, bytes]]:
    """All that was finished of a lease, numbered from ``number`` on (the last one that was given); ``total`` bytes.

    A caption says what it was written by, not what came later: what different specs made is told apart.
    """
    for use in dict.fromkeys(use for _, use in finished):
        good = sorted((o for o, by in finished if by is use and o.failure is None), key=lambda one: one.index)
        for part in split(good, total):
            number += 1
            yield pack(part, grant, use, engine, rules, number)
    failures = [outcome.failure for outcome, _ in finished if outcome.failure is not None]
    for start in range(0, len(failures), m.MAX_FAILED_ITEMS):
        number += 1
        items = tuple(failures[start : start + m.MAX_FAILED_ITEMS])
        yield m.Failed(lease=grant.lease, instance=rules.instance, number=number, items=items), b""
