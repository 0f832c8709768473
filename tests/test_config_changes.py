"""Which key needs what: nothing is forgotten, and what differs is named and never told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfbus.config import SCHEMA, SECTIONS, Config
from cfbus.config_changes import KINDS, Changes, Kind, changes, check_changes, kind_of
from cfbus.errors import ConfigError


def config(**sections: object) -> Config:
    values = dict.fromkeys(SECTIONS) | {"captions": {"engine": "vllm"}} | sections
    return Config.model_validate(values, context={"folder": Path("/nowhere")})


def between(before: Config, after: Config) -> Changes:
    return changes(before, before, after)


def test_each_kind_is_a_kind_of_a_key_that_there_is() -> None:
    known = {path[:length] for path in SCHEMA.known_paths() for length in range(1, len(path) + 1)}
    assert set(KINDS) <= known
    assert {path[0] for path in known} == {path[0] for path in KINDS if len(path) == 1}, "a section without a kind"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("worker.concurrency", Kind.LIVE),
        ("worker.when_finished", Kind.LIVE),
        ("worker.key_file", Kind.RESTART),
        ("worker.server", Kind.RESTART),
        ("worker.gpu_id", Kind.RESTART),
        ("worker.spool_dir", Kind.RESTART),
        ("worker.that_comes_later", Kind.RESTART),
        ("dataset.path", Kind.RESTART),
        ("captions.engine", Kind.RESTART),
        ("vllm.model", Kind.ENGINE),
        ("vllm.max_model_len", Kind.ENGINE),
        ("vllm.any_argument", Kind.ENGINE),
        ("vllm.sampling.temperature", Kind.ELSEWHERE),
        ("captions.slots.a.prompt", Kind.ELSEWHERE),
        ("captions.pixel_budget", Kind.ENGINE),
        ("captions.scripted.speed", Kind.ELSEWHERE),  # another engine's
        ("broker.port", Kind.ELSEWHERE),
        ("no_section.of_ours", Kind.RESTART),
    ],
)
def test_what_a_change_needs(key: str, kind: Kind) -> None:
    assert kind_of(tuple(key.split(".")), "vllm") is kind


def test_what_only_another_engine_reads_needs_nothing() -> None:
    assert kind_of(("vllm", "model"), "scripted") is Kind.ELSEWHERE
    assert kind_of(("captions", "scripted", "speed"), "scripted") is Kind.ENGINE


def test_differences_are_named_by_what_they_need() -> None:
    before = config(worker={"concurrency": 4, "name": "a"}, vllm={"model": "m", "block_size": 16})
    after = config(
        worker={"concurrency": 8, "name": "b"},
        vllm={"model": "n", "kv_cache_dtype": "fp8", "sampling": {"top_k": 3}},
        broker={"chunk_size": 3},
    )
    assert between(before, after) == Changes(
        live=("worker.concurrency",),
        engine=("vllm.block_size", "vllm.kv_cache_dtype", "vllm.model"),
        restart=("worker.name",),
        elsewhere=("broker.chunk_size", "vllm.sampling.top_k"),
    )
    assert between(before, before) == Changes()


def test_an_engine_is_compared_with_what_it_was_built_by() -> None:
    """A model that could not be loaded is tried again when the file is read again, though the file is as it was."""
    built, held = config(vllm={"model": "m"}), config(vllm={"model": "bad"}, worker={"concurrency": 9})
    assert changes(held, built, held) == Changes(engine=("vllm.model",))
    assert changes(held, built, built) == Changes(live=("worker.concurrency",))


def test_a_section_that_becomes_empty_differs() -> None:
    before, after = config(vllm={"limit_mm_per_prompt": {"image": 1}}), config(vllm={"limit_mm_per_prompt": {}})
    assert "vllm.limit_mm_per_prompt.image" in between(before, after).engine


def test_what_needs_a_restart_is_a_sentence_for_each_with_its_place() -> None:
    found = Changes(restart=("worker.name", "worker.server"))
    with pytest.raises(ConfigError) as caught:
        check_changes(found, {"worker.name": "gpu.yaml:3"})
    assert caught.value.message == (
        "gpu.yaml:3: worker.name cannot change while the worker runs.\n"
        "worker.server cannot change while the worker runs."
    )
    assert caught.value.hint == "Restart the worker, or put it back as it was."
    check_changes(Changes(live=("worker.concurrency",)), {})
