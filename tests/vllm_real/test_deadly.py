"""A picture that kills the real engine: it is found in a few deaths, and all others are captioned."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import engine_vllm
import pytest
from coloured import BRIEF, SIZE, png
from engine_rig import Outcomes, blame
from PIL import Image
from vllm_album import Album, Open
from vllm_real.deadly import COLOUR, watched

from cfbus.config import Config
from cfbus.engines.vllm_host import Host

DEADLY = Image.new("RGB", (SIZE, SIZE), COLOUR)


def settings() -> Config:
    return engine_vllm.config(captions={"engine": "vllm", "slots": {"brief": BRIEF}})


@pytest.fixture
def mortal(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The engine in this process: what would end its process fails its step, which is the end of it too."""
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Model

    def die() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Model, "embed_multimodal", watched(Model.embed_multimodal, die))
    before = host.deaths
    yield host
    assert host.deaths > before, "nothing died: the test shows nothing"


def right(album: Album, outcomes: Outcomes, indices: set[int]) -> bool:
    texts = {outcome.index: outcome.captions[0].text for outcome in outcomes.all if not outcome.failure}
    return all(texts[index].startswith(album.seen[index].colour) for index in indices)


def test_the_one_that_kills_is_found_in_halves_and_the_others_get_their_captions(mortal: Host, opened: Open) -> None:
    album, outcomes, before = Album(8, bytes_of={5: png(DEADLY)}), Outcomes(), mortal.deaths
    engine = opened(settings(), album, outcomes)
    engine.submit(album.items(("brief",)))
    found = outcomes.wait_for(8, 400)
    assert blame(found[5]) == ("engine-died", "item")
    assert right(album, outcomes, set(range(8)) - {5})
    assert mortal.deaths - before <= 2 * math.log2(8) + 2


def test_suspects_that_are_dropped_neither_come_back_nor_hold_up_the_others(mortal: Host, opened: Open) -> None:
    """The guilty one, and an innocent one, after the first death."""
    album, outcomes, before = Album(6, bytes_of={1: png(DEADLY)}), Outcomes(), mortal.deaths
    engine = opened(settings(), album, outcomes)
    items = album.items(("brief",))
    engine.submit(items)
    until = time.monotonic() + 400
    while mortal.deaths == before:
        assert time.monotonic() < until
        threading.Event().wait(0.001)
    engine.abandon(items[0].lease, frozenset({1, 4}))
    outcomes.wait_for(4, 400)
    assert right(album, outcomes, {0, 2, 3, 5})
    engine.submit([items[4]])  # leased again
    outcomes.wait_for(5, 400)
    assert right(album, outcomes, {0, 2, 3, 4, 5})
    assert mortal.deaths - before <= 3
