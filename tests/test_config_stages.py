"""Stages in the configuration: what is no plan is said, what is one becomes a spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cfbus.config import Config, load, write_commented
from cfbus.errors import ConfigError
from cfbus.spec import spec_of

STAGES = "stages: {see: {sampling: {max_tokens: 50}}, merge: {requires: [see], image: false, output_field: done}}"
SLOTS = (
    "slots: {short: {prompt: S, stage: see}, tags: {prompt: T, stage: see, sampling: {temperature: 0}},"
    " final: {prompt: '{short} {see}', stage: merge}}"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(text: str, environ: Mapping[str, str] | None = None) -> Config:
    Path("my.yaml").write_text(text)
    return load("gpu", Path("my.yaml"), (), environ or {}).config


def refused(captions: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(f"captions: {{{captions}}}")
    return str(caught.value)


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ("stages: {a: {requires: [b]}}, slots: {x: {prompt: p, stage: a}}", "a.requires: there is no stage 'b'"),
        ("stages: {a: {requires: [a]}}, slots: {x: {prompt: p, stage: a}}", "stages.a requires itself"),
        (
            "stages: {a: {requires: [b]}, b: {requires: [c]}, c: {requires: [a]}}, slots: {x: {prompt: p, stage: a}}",
            "stages.a requires itself, by way of b",
        ),
        ("stages: {a: {}}, slots: {x: p}", "slots.x.stage: there is no stage 'caption'; the stages are a"),
        ("slots: {x: {prompt: p, stage: a}}", "there is no stage 'a'; give captions.stages"),
        ("stages: {a: {}, b: {}}, slots: {x: {prompt: p, stage: a}}", "no slot is of the stage b"),
        ("stages: {a: {output_field: 'A b'}}, slots: {x: {prompt: p, stage: a}}", "'A b' is no name of small letters"),
        (
            "stages: {a: {output_field: n}, b: {output_field: n}}, slots: {x: {prompt: p, stage: a}}",
            "the stages a and b have the same output_field 'n'",
        ),
        (
            "stages: {a: {}, b: {}}, slots: {a: {prompt: p, stage: b}, x: {prompt: p, stage: a}}",
            "'a' is a slot and what stage a is called in prompts",
        ),
        (
            "stages: {a: {}, b: {}}, slots: {x: {prompt: p, stage: a}, y: {prompt: 'Of {x}', stage: b}}",
            "slots.y: its prompt has {x}, so the stage b must require a",
        ),
        (
            "stages: {a: {}}, slots: {x: {prompt: p, stage: a}, y: {prompt: 'Of {x}', stage: a}}",
            "so the stage a must require a",
        ),
        ("stages: {a: {model: other/one}}, slots: {x: {prompt: p, stage: a}}", "stages.a.model: other/one is not"),
        ("stages: {a: {requires: 7}}, slots: {x: {prompt: p, stage: a}}", "7 is not a list"),
    ],
)
def test_what_is_no_plan_is_told(captions: str, words: str) -> None:
    assert words in refused(captions)


def test_a_plan_becomes_a_spec_with_the_sampling_of_each_slot() -> None:
    settings = config(
        f"vllm: {{sampling: {{seed: 3}}}}\ncaptions: {{engine: vllm, system: Be brief., {STAGES}, {SLOTS}}}"
    )
    spec = spec_of(settings.captions, settings.vllm)
    assert [(stage.name, stage.requires, stage.output_field, stage.image) for stage in spec.stages] == [
        ("see", (), "see", True),
        ("merge", ("see",), "done", False),
    ]
    sampled = {slot.name: slot.sampling for slot in spec.slots}
    assert all(each is not None and each.seed == 3 for each in sampled.values())
    found = {name: (each.max_tokens, each.temperature) for name, each in sampled.items() if each}
    assert found == {"short": (50, 0.7), "tags": (50, 0.0), "final": (256, 0.7)}
    assert spec.system == "Be brief."
    assert spec.model is not None
    assert spec.model.name == settings.vllm.model


def test_only_what_decides_captions_changes_the_spec() -> None:
    def name_of(text: str) -> str:
        settings = config(text)
        return spec_of(settings.captions, settings.vllm).hash

    base = name_of("captions: {engine: vllm}")
    assert name_of("captions: {engine: vllm}\nvllm: {gpu_memory_utilization: 0.5, kv_cache_dtype: fp8}") == base
    for changed in ("vllm: {model: a/b}", "vllm: {revision: x}", "vllm: {sampling: {top_p: 0.5}}"):
        assert name_of(f"captions: {{engine: vllm}}\n{changed}") != base
    assert name_of("captions: {engine: vllm, system: x}") != base
    palette = name_of("captions: {}")
    assert name_of("captions: {}\nvllm: {sampling: {top_p: 0.5}}") == palette


def test_a_plan_is_written_as_it_was_given(tmp_path: Path) -> None:
    settings = config(f"captions: {{engine: vllm, {STAGES}, {SLOTS}}}")
    text = write_commented(settings, tmp_path)
    again = config(text)
    assert again == settings
    assert spec_of(again.captions, again.vllm) == spec_of(settings.captions, settings.vllm)
    assert max(len(line) for line in text.splitlines() if line.lstrip().startswith("short")) < 60


def test_a_stage_may_name_the_one_model_that_there_is() -> None:
    config("vllm: {model: a/b}\ncaptions: {stages: {s: {model: a/b}}, slots: {x: {prompt: p, stage: s}}}")
