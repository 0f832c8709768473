"""Whatever the captions, results fit their frames; what cannot fit becomes a failure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_CAPTION_BYTES, MAX_HEADER_BYTES, MAX_ITEM_TEXT_BYTES, RESULT_SPLIT_BYTES
from cfbus.bus.wire import checksum, decode, decode_table, encode
from cfbus.core.held import Use
from cfbus.core.outcome import Caption, EngineFacts, ImageFacts, Outcome
from cfbus.core.results import pack, split, weighed
from cfbus.core.worker import WorkerRules

ID = "0" * 16
WIDE = "\N{GRINNING FACE}"
RULES = WorkerRules(ID, "n" * 64, 4)
ENGINE = EngineFacts("e" * 64, "m" * 512, "r" * 512)
CHARACTERS = st.sampled_from(["x", "ä", "€", WIDE])
SIZES = st.sampled_from([0, 1, 300, 4000, MAX_CAPTION_BYTES // 4, MAX_CAPTION_BYTES, MAX_CAPTION_BYTES + 1])


def spec(slots: int) -> m.Spec:
    own = tuple(m.Slot(name=f"s{at}", stage="s" * 32, prompt="p", prompt_id="p" * 32) for at in range(slots))
    return m.Spec(hash=ID, engine="scripted", pixel_budget=1, max_pixels=1, slots=own)


def grant(slots: int, items: int) -> m.Grant:
    names = tuple(f"s{at}" for at in range(slots))
    return m.Grant(
        lease=ID,
        pass_number=1,
        shard=0,
        shard_name="s",
        start=0,
        end=items,
        slots=names,
        backup=False,
        ttl=1.0,
        window=1,
    )


def results(outcomes: list[Outcome], slots: int) -> list[tuple[m.Result, bytes]]:
    weights = [(fit, size) for fit, size in map(weighed, outcomes) if fit.failure is None]
    good, total = [fit for fit, _ in weights], sum(size for _, size in weights)
    facts = (grant(slots, 1 << 20), Use(spec(slots), (1 << 53) - 1), ENGINE, RULES)
    return [pack(part, *facts, number) for number, part in enumerate(split(good, total))]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 16), st.integers(1, 64), st.integers(1, 3))
def test_no_result_is_larger_than_a_frame(data: st.DataObject, slots: int, items: int, step: int) -> None:
    outcomes: list[tuple[int, list[str]]] = []
    for at in range(items):
        texts = [data.draw(CHARACTERS) * data.draw(SIZES) for _ in range(slots)] if at < 4 else outcomes[at % 4][1]
        outcomes.append((at * step, texts))
    made = [Outcome(ID, index, tuple(map(Caption, texts))) for index, texts in outcomes]
    fit = {index: texts for index, texts in outcomes if _fits(texts)}
    seen: dict[int, list[str]] = {}
    for message, payload in results(made, slots):
        magic, header, body = encode(message, payload)
        assert len(header) <= MAX_HEADER_BYTES
        assert len(magic) + len(header) + len(body) <= m.MAX_FRAME_BYTES
        assert decode([magic, header, body]) == (message, payload)
        assert (message.size, message.crc) == (len(payload), checksum(payload))
        table = decode_table("captions", payload)
        texts = table.text("caption").texts()
        indices = [index for start, end in message.ranges for index in range(start, end)]
        assert table.rows == len(indices)
        seen |= {index: texts[at * slots : (at + 1) * slots] for at, index in enumerate(indices)}
    assert seen == fit


def _fits(texts: list[str]) -> bool:
    sizes = [len(text.encode()) for text in texts]
    return max(sizes) <= MAX_CAPTION_BYTES and sum(sizes) <= MAX_ITEM_TEXT_BYTES


def test_the_largest_of_everything_fits() -> None:
    """Two thousand short items, and 64 items of 16 slots that fill what an item may have."""
    short = [Outcome(ID, 2 * index, (Caption("x"),)) for index in range(6000)]
    long = [
        Outcome(ID, 2 * index, tuple(Caption(WIDE * (MAX_ITEM_TEXT_BYTES // 64)) for _ in range(16)))
        for index in range(64)
    ]
    for outcomes, slots in ((short, 1), (long, 16)):
        made = results(outcomes, slots)
        assert sum(len(message.ranges) for message, _ in made) == len(outcomes)
        for message, payload in made:
            _, header, _ = encode(message, payload)
            assert len(header) <= MAX_HEADER_BYTES
            assert len(payload) <= RESULT_SPLIT_BYTES + 32 * 1024


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["x" * (MAX_CAPTION_BYTES + 1)], "caption-too-long"),
        ([WIDE * (MAX_CAPTION_BYTES // 4 + 1)], "caption-too-long"),
        (["x" * MAX_CAPTION_BYTES] * 4, "caption-too-long"),
        (["half a character: \ud83d"], "caption-not-text"),
    ],
)
def test_what_cannot_be_sent_is_a_failure_and_never_cut(texts: list[str], reason: str) -> None:
    outcome, _ = weighed(Outcome(ID, 7, tuple(map(Caption, texts)), image=ImageFacts(width=3)))
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.index, outcome.failure.fault) == (reason, 7, "item")
    assert outcome.captions == ()


def test_what_fits_stays_as_it_is() -> None:
    outcome = Outcome(ID, 7, (Caption("x" * MAX_CAPTION_BYTES), Caption("")))
    assert weighed(outcome)[0] is outcome
    assert list(split([], 0)) == []
