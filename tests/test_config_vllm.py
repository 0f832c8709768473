"""cfbus.config_vllm: what is typed, what passes as written, prompts said in two ways, flags without effect."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cfbus.config import Config, Loaded, check_effects, load, write_commented
from cfbus.config_captions import ENGINES, MAX_PROMPT, Captions
from cfbus.config_overlay import Option
from cfbus.config_vllm import prompt_names
from cfbus.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def prompts(loaded: Loaded) -> dict[str, str]:
    return {name: slot.prompt for name, slot in loaded.config.captions.slots.items()}


def written(text: str, *sets: str | Option, **environ: str) -> Loaded:
    Path("my.yaml").write_text(text, encoding="utf-8")
    return load("gpu", Path("my.yaml"), sets, environ)


def refused(text: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        written(text, *sets)
    return str(caught.value)


def test_a_section_as_people_write_it() -> None:
    vllm = written(
        "vllm:\n  model: a/b\n  dtype: float16\n  max_model_len: 16384\n  limit_mm_per_prompt: {image: 2}\n"
        "  sampling: {temperature: 0, top_k: -1, stop: [no], seed: 7}\n"
    ).config.vllm
    assert (vllm.model, vllm.dtype, vllm.max_model_len, vllm.max_num_seqs) == ("a/b", "float16", 16384, None)
    assert vllm.limit_mm_per_prompt == {"image": 2}
    assert (vllm.sampling.temperature, vllm.sampling.stop, vllm.sampling.seed) == (0, ("no",), 7)
    assert vllm.engine_arguments == {}
    assert written("", "vllm.sampling.stop=[a, b]").config.vllm.sampling.stop == ("a", "b")
    assert written("", "vllm.sampling.stop=END").config.vllm.sampling.stop == ("END",)
    assert vllm.trust_remote_code is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm: {dtype: fp16}", '1: vllm.dtype: "fp16" is not one of auto, bfloat16'),
        ("vllm:\n\n  sampling:\n    top_p: 7", "4: vllm.sampling.top_p: 7 is not a number from 0.01 to 1"),
        ("vllm:\n  sampling: {temprature: 1}", "2: vllm.sampling.temprature: no such key; did you mean"),
        ("vllm: {max_model_len: x}", '"x" is not a whole number from 16 to 16777216, or nothing (null)'),
        ("vllm: {trust_remote_code: 1}", "1 is not true or false"),
        ("vllm: {limit_mm_per_prompt: {pdf: 1}}", "pdf: this name is not one of image, video, audio"),
        ("vllm: {limit_mm_per_prompt: {image: 65}}", "image: 65 is not a whole number from 0 to 64"),
        ("vllm: {tensor_parallel_size: 0}", "0 is not a whole number from 1 to 64"),
        ("vllm: {gpu_memory_utilization: 92}", "92 is not a number from 0.01 to 1"),
        ("vllm: {sampling: {stop: [1, '']}}", "vllm.sampling.stop.1"),
        ("vllm: {batch_size: 8}", "worker.concurrency says how many"),
        ("vllm: {Odd Name: 8}", "Odd Name: no argument of an engine has such a name"),
        ("vllm: [a]", "a list is not a section with the keys model"),
        ("vllm: {inference_prompts: {Bad: x}}", "Bad: this name is not a small letter"),
        ("vllm: {inference_prompts: 7}", "7 is not a list of at most 16 prompts, or a section with"),
        (f"vllm: {{inference_prompts: [{'x,' * 17}]}}", "a list is not a list of at most 16 prompts"),
        (f"vllm: {{inference_prompts: [{'x' * (MAX_PROMPT + 1)}]}}", "8,193 characters is not a text"),
    ],
)
def test_what_is_wrong_is_told(text: str, words: str) -> None:
    assert words in refused(text)


def test_what_is_no_key_passes_as_written_and_keeps_its_line() -> None:
    loaded = written(
        "vllm:\n  kv_cache_dtype: fp8\n  compilation_config:\n    level: 3\n    sizes: [1, 2]\n  odd: no\n",
        "vllm.compilation_config.level=2",
        CFBUS_VLLM__SWAP_SPACE="4",
    )
    assert loaded.config.vllm.engine_arguments == {
        "kv_cache_dtype": "fp8",
        "compilation_config": {"level": 2, "sizes": [1, 2]},
        "odd": False,
        "swap_space": 4,
    }
    assert loaded.origins["vllm.odd"] == "my.yaml:6"
    assert loaded.origins["vllm.compilation_config.sizes"] == "my.yaml:5"
    assert loaded.origins["vllm.swap_space"] == "CFBUS_VLLM__SWAP_SPACE"


def test_too_many_arguments_are_no_configuration() -> None:
    assert "201 arguments" in refused("vllm: {" + ", ".join(f"a{number}: 1" for number in range(201)) + "}")


# Prompts


def test_a_list_of_prompts_becomes_slots() -> None:
    assert prompts(written("vllm:\n  inference_prompts: [one, no, 007]\n")) == {
        "caption": "one",
        "caption_2": "no",
        "caption_3": "007",
    }
    assert prompt_names(1) == ["caption"]


def test_prompts_with_names_become_slots_with_these() -> None:
    settings = written("vllm: {inference_prompts: {short: One line., tags: {prompt: Tags.}}}\ncaptions:\n").config
    assert {name: slot.prompt for name, slot in settings.captions.slots.items()} == {
        "short": "One line.",
        "tags": "Tags.",
    }


@pytest.mark.parametrize("nothing", ["", "[]", "{}", "null"])
def test_no_prompts_leave_the_slots_alone(nothing: str) -> None:
    assert (
        "mine"
        in written(f"vllm:\n  inference_prompts: {nothing}\ncaptions: {{slots: {{mine: x}}}}").config.captions.slots
    )


def test_prompts_in_both_places_are_an_error_that_says_which_to_keep() -> None:
    told = refused("vllm: {inference_prompts: [a]}\ncaptions: {slots: {b: c}}")
    assert told.startswith("my.yaml:2: captions: slots and vllm.inference_prompts say the same; keep captions.slots")
    assert "say the same" in refused("vllm: {inference_prompts: [a]}", "captions.slots.b=c")


def test_the_limits_of_slots_hold_for_prompts() -> None:
    long = "x" * MAX_PROMPT
    assert "bytes together" in refused(f"vllm: {{inference_prompts: [{', '.join([long] * 5)}]}}")


def test_prompts_are_written_as_they_were_given(tmp_path: Path) -> None:
    settings = written("vllm: {inference_prompts: [a, b]}\ncaptions: {pixel_budget: 2048}").config
    text = write_commented(settings, tmp_path)
    assert "  #slots:" in text
    again = written(text).config
    assert again == settings
    assert set(written(text, "vllm.inference_prompts=[c]").config.captions.slots) == {"caption"}


def test_models_that_were_made_by_hand_follow_too() -> None:
    given = {"vllm": {"inference_prompts": ["a"]}, "captions": Captions(pixel_budget=2048)}
    made = Config.model_validate(given)
    assert made.captions.slots["caption"].prompt == "a"
    assert made.captions.pixel_budget == 2048
    with pytest.raises(ValidationError):
        made.vllm.model = "x"  # type: ignore[misc]


# Flags


@pytest.mark.parametrize(
    ("said", "path", "text"),
    [("--model", "vllm.model", "x"), ("--precision", "vllm.dtype", "half"), ("--set vllm.a.b", "vllm.a.b", "1")],
)
def test_a_flag_for_another_engine_is_an_error(said: str, path: str, text: str) -> None:
    loaded = written("captions:\n  engine: palette\n", Option(said, tuple(path.split(".")), text))
    with pytest.raises(ConfigError) as caught:
        check_effects(loaded)
    assert str(caught.value).startswith(
        f"{said}: only the engine vllm reads {path}; captions.engine is palette (my.yaml:2)."
    )
    assert caught.value.message.count("\n") == 0
    assert caught.value.hint


def test_what_is_said_to_an_engine_that_could_be_chosen_says_how() -> None:
    with pytest.raises(
        ConfigError, match=r"\(the default\). Choose --set captions.engine=scripted, or leave this out."
    ):
        check_effects(written("", "captions.scripted.rate=5"))
    assert "scripted" in ENGINES


def test_what_has_an_effect_or_waits_in_a_file_is_no_error() -> None:
    check_effects(written("vllm: {model: x}\ncaptions: {scripted: {rate: 5}}", CFBUS_VLLM__DTYPE="half"))
    check_effects(written("", "captions.engine=scripted", "captions.scripted.rate=5", "worker.concurrency=3"))
    check_effects(written("", "vllm.inference_prompts=[a]"))
