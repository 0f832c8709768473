"""The rate of a host: on its own images or on made ones, by the bus's spec, and what becomes of images that fail."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from cfbus import config
from cfbus.bus import messages as m
from cfbus.spec import spec_of
from cfbus.tools import doctor_rate
from cfbus.tools.doctor_seen import Seen, Verdict


def loaded(*overrides: str) -> config.Loaded:
    return config.load("gpu", Path(os.devnull), ("worker.decoders=2", *overrides), {})


def looked(settings: config.Loaded, spec: m.Spec | None = None) -> dict[str, Seen]:
    return {each.what: each for each in doctor_rate.of_rate(settings, spec)}


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(folder / f"{number:02}.jpg")
    return folder


def test_without_images_of_its_own_twenty_are_made() -> None:
    seen = looked(loaded("captions.engine=palette"))
    assert seen["images"].verdict is Verdict.NOTE
    assert "dataset.paths names nothing" in seen["images"].sentence
    assert seen["rate"].verdict is Verdict.OK
    assert re.match(r"20 images with 1 caption each in [0-9.]+ s: [0-9.]+ images a second", seen["rate"].sentence)


def test_its_own_images_are_taken_and_bad_ones_told(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", 22)
    (folder / "03.jpg").write_bytes(b"\xff\xd8\xffno picture")
    seen = looked(loaded("captions.engine=palette", f'dataset.paths=["{folder}"]'))
    assert "images" not in seen
    assert seen["rate"].verdict is Verdict.NOTE
    assert seen["rate"].sentence.startswith("19 images ")
    assert "1 could not be captioned: " in seen["rate"].sentence


def test_a_folder_that_is_not_here_needs_a_feeder(tmp_path: Path) -> None:
    seen = looked(loaded("captions.engine=palette", f'dataset.paths=["{tmp_path}/none"]'))
    assert seen["images"].verdict is Verdict.NOTE
    assert "a feeder has to serve them" in seen["images"].sentence
    assert seen["rate"].verdict is Verdict.OK


def test_where_nothing_can_be_captioned_it_is_bad(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"\xff\xd8\xffno picture")
    seen = looked(loaded("captions.engine=palette", f'dataset.paths=["{folder}"]'))
    assert seen["rate"].verdict is Verdict.BAD
    assert seen["rate"].exit_code


def test_the_spec_of_the_bus_counts_if_it_is_for_this_engine() -> None:
    bus = loaded(
        "captions.engine=scripted",
        "captions.scripted.rate=5000",
        'captions.slots={"a": {"prompt": "a"}, "b": {"prompt": "b"}}',
    )
    spec = spec_of(bus.config.captions, bus.config.vllm)
    assert len(spec.slots) == 2
    mine = loaded(
        "captions.engine=scripted", "captions.scripted.rate=5000", "dataset.source=scripted", "dataset.items=50"
    )
    assert "with 2 captions each" in looked(mine, spec)["rate"].sentence
    palette = loaded("captions.engine=palette")
    assert "with 1 caption each" in looked(palette, spec)["rate"].sentence


def test_an_engine_that_never_answers_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_rate, "PATIENCE_SECONDS", 0.2)
    slow = loaded(
        "captions.engine=scripted", "captions.scripted.rate=0.01", "dataset.source=scripted", "dataset.items=50"
    )
    seen = looked(slow)
    assert seen["rate"].verdict is Verdict.BAD
    assert "none came to an end in time" in seen["rate"].sentence
