"""What every engine promises, asked of each, with real pictures read from a folder; of vLLM where it is installed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import engine_vllm
import pytest
from engine_rig import LEASE, Outcomes, blame, items_of, spec_of
from PIL import Image

from cfbus.core.outcome import ImageFacts, WorkItem
from cfbus.decoding import DecodePool
from cfbus.engines.base import Engine, Loaded, Read
from cfbus.engines.describing import PaletteEngine
from cfbus.engines.scripted import ScriptedEngine
from cfbus.engines.vllm_engine import VllmEngine
from cfbus.images import Limits
from cfbus.sources.base import Item, NothingKnown
from cfbus.sources.folder import FolderSource

COLOURS = ("red", "blue", "white", "black", "yellow", "orange", "purple", "magenta")
PROMPTS = {"tags": "tags", "short": "one line", "long": "in detail"}
Make = Callable[[Read, Outcomes], Engine]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(2, Limits()) as made:
        yield made


NEEDS_VLLM = pytest.mark.skipif(not engine_vllm.THERE, reason=engine_vllm.WHY)


@pytest.fixture(params=["palette", "scripted", pytest.param("vllm", marks=NEEDS_VLLM)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, pool: DecodePool) -> Iterator[Make]:
    made: list[Engine] = []

    def engine(read: Read, outcomes: Outcomes) -> Engine:
        chosen = opened(kind, read, pool, outcomes)
        made.append(chosen)
        return chosen

    yield engine
    for each in made:
        each.close()


def opened(kind: str, read: Read, pool: DecodePool, outcomes: Outcomes) -> Engine:
    if kind == "palette":
        return PaletteEngine(read, pool, outcomes.post)
    if kind == "scripted":
        return ScriptedEngine(outcomes.post)
    vllm = engine_vllm.config().vllm
    return VllmEngine(engine_vllm.tiny_host(), vllm, "0", read, pool, outcomes.post, keep_host=True)


class Pictures:
    """Pictures on disk, as items."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draw(self, count: int = 24) -> list[WorkItem]:
        for number in range(count):
            image = Image.new("RGB", (30 + number, 40), COLOURS[number % len(COLOURS)])
            image.save(self.folder / f"{number:03d}.{('png', 'jpg', 'webp')[number % 3]}", lossless=True)
        return self.listed()

    def listed(self) -> list[WorkItem]:
        self.source = FolderSource([self.folder])
        (shard,) = self.source.shards(NothingKnown())
        named = zip(shard.keys, shard.locators, strict=True)
        return [WorkItem(LEASE, shard.name, n, key, locator, tuple(PROMPTS)) for n, (key, locator) in enumerate(named)]

    def read(self, item: WorkItem) -> Loaded:
        return Loaded(self.source.read(item.shard, Item(item.index, item.key, item.locator)).data)


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path)


def test_each_item_comes_out_once_with_a_caption_per_slot_in_order(kind: str, make: Make, pictures: Pictures) -> None:
    items = [
        item._replace(slots=item.slots[:: 1 if item.index % 2 else -1][: 1 + item.index % 3])
        for item in pictures.draw()
    ]
    outcomes = Outcomes()
    engine = make(pictures.read, outcomes)
    engine.use(spec_of(kind, PROMPTS))
    for at in range(0, len(items), 5):
        engine.submit(items[at : at + 5])
    found = outcomes.wait_for(len(items))
    for item in items:
        assert found[item.index].lease == LEASE
        assert found[item.index].failure is None
        texts = [caption.text for caption in found[item.index].captions]
        assert len(texts) == len(item.slots)
        for slot, text in zip(item.slots, texts, strict=True):
            assert belongs(kind, item, slot, text), (item, slot, text)


def belongs(kind: str, item: WorkItem, slot: str, text: str) -> bool:
    if kind == "scripted":
        return text.startswith(f"{slot} of {item.key}: ")
    if kind == "vllm":
        return bool(text)  # what it says of its own picture is tested in tests/vllm_real
    number = int(item.key[:3])
    form = {
        "tags": not text.endswith("."),
        "short": text.startswith("A ") and f", plain {COLOURS[number % len(COLOURS)]} all over." in text,
        "long": f", {30 + number} pixels wide and 40 pixels high" in text,
    }
    return form[slot] and COLOURS[number % len(COLOURS)] in text.lower()


def test_a_changed_spec_holds_for_later_items(kind: str, make: Make, pictures: Pictures) -> None:
    items = [item._replace(slots=("short",)) for item in pictures.draw()]
    outcomes = Outcomes()
    engine = make(pictures.read, outcomes)
    engine.use(spec_of(kind, {"short": "tags"}, length=60))
    engine.submit(items[:12])
    engine.use(spec_of(kind, {"short": "in detail"}, length=200))
    engine.submit(items[12:])
    for index, outcome in outcomes.wait_for(len(items)).items():
        text, tokens = outcome.captions[0].text, outcome.captions[0].output_tokens
        is_later = {
            "palette": text.startswith("This is "),
            "scripted": len(text) == 200,
            "vllm": tokens > 3,
        }
        assert is_later[kind] == (index >= 12)


@pytest.mark.parametrize("kind", ["scripted", pytest.param("vllm", marks=NEEDS_VLLM)])
def test_overrides_hold_for_the_items_that_have_them(kind: str, make: Make, pictures: Pictures) -> None:
    name, value = {"scripted": ("length", "200"), "vllm": ("max_tokens", "2")}[kind]
    items = [
        item._replace(slots=("short",), overrides=((name, value),) if item.index % 2 else ())
        for item in pictures.draw(8)
    ]
    outcomes = Outcomes()
    engine = make(pictures.read, outcomes)
    engine.use(spec_of(kind, {"short": "in detail"}, length=100))
    engine.submit(items)
    for index, outcome in outcomes.wait_for(len(items)).items():
        caption = outcome.captions[0]
        size = len(caption.text) if kind == "scripted" else caption.output_tokens
        assert size == {"scripted": (100, 200), "vllm": (5, 2)}[kind][index % 2]


def test_close_is_prompt_and_fails_what_is_left(kind: str, make: Make) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def never(item: WorkItem) -> Loaded:
        begun.set()
        go_on.wait(60)
        return Loaded(b"")

    outcomes = Outcomes()
    engine = make(never, outcomes)
    engine.use(spec_of(kind, PROMPTS, rate=0.01))
    engine.submit(items_of(40, PROMPTS))
    assert kind == "scripted" or begun.wait(30)
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 30  # what is read would take a minute, and what is captioned an hour
    found = outcomes.wait_for(40)
    assert {blame(outcome) for outcome in found.values()} == {("closed", "worker")}
    go_on.set()
    engine.close()
    assert len(outcomes.all) == 40


def test_close_without_work_is_quick(kind: str, make: Make) -> None:
    took = []
    for _ in range(5):
        engine = make(lambda item: Loaded(b""), Outcomes())
        began = time.monotonic()
        engine.close()
        took.append(time.monotonic() - began)
        if took[-1] < 1:  # not always: the machine may be busy
            break
    assert min(took) < 1, took


def test_its_figures_follow_what_it_holds(kind: str, make: Make, pictures: Pictures) -> None:
    items = [item._replace(slots=("short",)) for item in pictures.draw()]
    outcomes = Outcomes()
    go_on = threading.Event()

    def slowly(item: WorkItem) -> Loaded:
        go_on.wait(60)
        return pictures.read(item)

    engine = make(slowly, outcomes)
    engine.use(spec_of(kind, PROMPTS, rate=100))
    engine.submit(items)
    held = engine.figures()
    assert held is not None
    assert held.reading + held.decoding + held.running + held.waiting > 0
    assert kind == "scripted" or held.reading == len(items)
    assert kind == "vllm" or held.tokens_per_second is None
    go_on.set()
    outcomes.wait_for(len(items))
    end = time.monotonic() + 30
    while (after := engine.figures()) is None or after.reading + after.decoding + after.running + after.waiting:
        assert time.monotonic() < end, after
        time.sleep(0.01)
    assert (after.kv_usage is None) == (kind != "vllm")


def test_its_facts_say_what_it_is(make: Make, kind: str) -> None:
    facts = make(lambda item: Loaded(b""), Outcomes()).facts
    assert facts.engine.split()[0] == kind
    if kind == "vllm":
        assert facts.model == str(engine_vllm.MODEL)
        return
    assert "not a vision-language model" in facts.model or "made-up" in facts.model


# -- palette alone: only it looks at pictures


def palette(read: Read, pool: DecodePool, items: list[WorkItem]) -> Outcomes:
    outcomes = Outcomes()
    engine = PaletteEngine(read, pool, outcomes.post)
    engine.use(spec_of("palette", PROMPTS))
    engine.submit(items)
    outcomes.wait_for(len(items))
    engine.close()
    return outcomes


def test_bad_pictures_fail_alone(pool: DecodePool, pictures: Pictures) -> None:
    pictures.draw()
    folder = pictures.folder
    whole = folder / "whole.jpg"
    Image.effect_noise((300, 200), 90).save(whole)
    bad = {
        "zero.jpg": (b"", ("empty", "item")),
        "cut.jpg": (whole.read_bytes()[:9000], ("truncated", "item")),
        "page.jpg": (b"<!doctype html><title>404</title>", ("not-an-image", "item")),
        "gone.jpg": (b"x", ("vanished", "item")),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("unsupported-format", "item")),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    items = pictures.listed()
    (folder / "gone.jpg").unlink()
    for outcome in palette(pictures.read, pool, items).all:
        key = items[outcome.index].key
        if key in bad:
            assert blame(outcome) == bad[key][1], key
        else:
            assert outcome.failure is None, key
            assert len(outcome.captions) == len(PROMPTS)


def test_a_folder_that_is_away_is_not_the_pictures_fault(pool: DecodePool, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pictures = Pictures(folder)
    items = pictures.draw(6)
    folder.rename(tmp_path / "elsewhere")
    found = palette(pictures.read, pool, items).all
    assert {blame(outcome) for outcome in found} == {("source-missing", "worker")}


def test_the_rows_say_what_the_picture_is(pool: DecodePool, pictures: Pictures) -> None:
    items = pictures.draw(3)
    facts = {outcome.index: outcome.image for outcome in palette(pictures.read, pool, items).all}
    assert [facts[n].format for n in range(3)] == ["PNG", "JPEG", "WEBP"]
    assert [(facts[n].width, facts[n].height) for n in range(3)] == [(30, 40), (31, 40), (32, 40)]
    for item in items:
        assert facts[item.index].file_size == (pictures.folder / item.key).stat().st_size
        assert facts[item.index].sha256 != ImageFacts().sha256


def test_a_slot_without_a_prompt_fails_its_item_only(pool: DecodePool, pictures: Pictures) -> None:
    items = pictures.draw(4)
    items[2] = items[2]._replace(slots=("short", "haiku"))
    found = palette(pictures.read, pool, items).all
    assert {blame(outcome) for outcome in found if outcome.failure} == {("unknown-slot", "worker")}
    assert [outcome.index for outcome in found if outcome.failure] == [2]


def test_decoders_that_cannot_start_or_are_closed_are_the_workers_fault(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = pictures.draw(6)
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", "/nonexistent/python")
        with DecodePool(2, Limits()) as broken:
            found = palette(pictures.read, broken, items).all
    broken.close()
    found += palette(pictures.read, broken, items).all
    assert len(found) == 12
    assert {blame(outcome) for outcome in found} == {("decoder-down", "worker")}


def test_a_pool_closed_in_the_middle_loses_no_item(pictures: Pictures) -> None:
    items = pictures.draw()
    dying = DecodePool(2, Limits())
    outcomes = Outcomes()
    engine = PaletteEngine(pictures.read, dying, outcomes.post)
    engine.use(spec_of("palette", PROMPTS))
    engine.submit(items)
    outcomes.wait(lambda found: len(found) >= 3)
    dying.close()
    found = outcomes.wait_for(len(items)).values()
    engine.close()
    assert {blame(outcome) for outcome in found if outcome.failure} <= {("decoder-down", "worker")}


def test_what_decoding_children_import_is_small() -> None:
    code = "import sys, cfbus.decoding, cfbus.engines.palette; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.split()
    assert "PIL" in loaded
    assert not {"zmq", "pyarrow", "msgpack", "pydantic", "structlog", "yaml"} & set(loaded)


@pytest.mark.parametrize(("policy", "said"), [("fail", None), ("skip", ""), ("empty", "A ")])
def test_columns_reach_the_prompts_and_what_is_kept_reaches_the_rows(
    pool: DecodePool, pictures: Pictures, policy: str, said: str | None
) -> None:
    items = [item._replace(slots=("short", "tags")) for item in pictures.draw(2)]
    columns: list[dict[str, object]] = [{"form": "in one short sentence"}, {}]

    def read(item: WorkItem) -> Loaded:
        return Loaded(pictures.read(item).data, columns[item.index], "http://x", '{"n": 1}')

    outcomes = Outcomes()
    engine = PaletteEngine(read, pool, outcomes.post)
    spec = spec_of("palette", {"short": "Describe it {column:form}, short.", "tags": "tags"})
    engine.use(spec.model_copy(update={"missing_column": policy}))
    engine.submit(items)
    found = outcomes.wait_for(2)
    engine.close()
    assert (found[0].url, found[0].metadata) == ("http://x", '{"n": 1}')
    assert found[0].captions[0].text.startswith("A ")
    if said is None:
        assert blame(found[1]) == ("missing-column", "item")
        return
    short, tags = found[1].captions
    assert short.text.startswith(said)
    assert tags.text
    assert (short.finish_reason, short.flags) == (("skipped", 1) if policy == "skip" else ("stop", 0))
