"""What is counted of captions, against counting them one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.bus import messages as m
from cfbus.bus.columns import FLAGS, Table, build
from cfbus.bus.fields import LENGTH_CLASSES, MAX_TALLIED
from cfbus.core.tally import EDGES, Tallies, counts_of

SLOTS = ("short", "tags")
Caption = tuple[str, int, int]
CAPTION = st.tuples(st.text(max_size=40), st.integers(0, 15), st.integers(-1, 300))


def table(items: list[list[Caption]]) -> Table:
    rows = [caption for item in items for caption in item]
    count, many = len(items), len(rows)
    return build(
        "captions",
        count,
        {
            "image_width": [1] * count, "image_height": [1] * count, "image_format": ["jpeg"] * count,
            "file_size": [1] * count, "image_sha256": [bytes(32)] * count, "processing_ms": [1.0] * count,
            "url": [""] * count, "metadata": [""] * count,
            "caption": [text for text, _, _ in rows], "finish_reason": ["stop"] * many, "prompt_tokens": [1] * many,
            "output_tokens": [tokens for _, _, tokens in rows], "mean_logprob": [0.0] * many, "seed": [0] * many,
            "flags": [flags for _, flags, _ in rows],
        },
        constants=dict.fromkeys(("spec", "model", "model_revision", "engine", "worker", "generation"), "x"),
        slots={"slot": SLOTS, "stage": SLOTS, "prompt_id": SLOTS},
    )  # fmt: skip


def length_class(size: int) -> int:
    return sum(size >= edge for edge in EDGES.tolist())


@given(st.lists(st.lists(CAPTION, min_size=2, max_size=2), min_size=1, max_size=20), st.data())
def test_counts_are_what_counting_one_by_one_gives(items: list[list[Caption]], data: st.DataObject) -> None:
    new = data.draw(st.lists(st.booleans(), min_size=len(items), max_size=len(items)))
    counts = counts_of(table(items), None if all(new) else np.array(new))
    for at, slot in enumerate(SLOTS):
        kept = [item[at] for item, is_new in zip(items, new, strict=True) if is_new]
        assert counts[slot].captions == len(kept)
        assert counts[slot].tokens == sum(max(tokens, 0) for _, _, tokens in kept)
        assert counts[slot].flags.tolist() == [
            sum(flags >> bit & 1 for _, flags, _ in kept) for bit in range(len(FLAGS))
        ]
        classes = Counter(length_class(len(text.encode())) for text, _, _ in kept)
        assert counts[slot].lengths.tolist() == [classes[each] for each in range(LENGTH_CLASSES)]


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 0), (1, 1), (15, 1), (16, 2), (31, 2), (32, 3), (8191, 10), (65536, 11)]
)
def test_classes_double(size: int, expected: int) -> None:
    assert length_class(size) == expected


def test_those_with_the_most_captions_are_told() -> None:
    tallies = Tallies()
    tallies.know_credits({f"c{number}": number for number in range(1, 200)})
    assert tallies.changed is True
    tallies.add(counts_of(table([[("a", 0, 1), ("b", 1, 2)]] * 300), None), "late")
    told = tallies.message(7)
    assert (told.contributors, told.unsealed_bytes, len(told.credits)) == (200, 7, MAX_TALLIED)
    assert told.credits[0] == m.Credit(contributor="late", captions=600)
    assert told.credits[-1].captions == 199 - MAX_TALLIED + 2
    assert {slot.slot: slot.flags for slot in told.slots} == {"short": (0, 0, 0, 0), "tags": (300, 0, 0, 0)}
    assert m.Tally.model_validate(told.model_dump()) == told


def test_what_was_told_has_not_changed() -> None:
    tallies = Tallies()
    tallies.message(0)
    assert not tallies.changed
