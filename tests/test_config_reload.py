"""Which key is of which class for a broker that runs: nothing is forgotten, and no secret is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfbus.config import SCHEMA, SECTIONS, Config, Loaded
from cfbus.config_reload import CLASSES, Class, differences, refusals


def config(**sections: object) -> Config:
    values = dict.fromkeys(SECTIONS) | sections
    return Config.model_validate(values, context={"folder": Path("/nowhere")})


def found(before: Config, after: Config, **origins: str) -> dict[str, Class]:
    names = {name.replace("__", "."): where for name, where in origins.items()}
    return {each.key: each.kind for each in differences(before, Loaded(after, None, names))}


def test_each_class_is_of_a_key_that_there_is_and_each_section_has_one() -> None:
    known = {path[:length] for path in SCHEMA.known_paths() for length in range(1, len(path) + 1)}
    assert set(CLASSES) <= known
    assert {path[0] for path in known} == {path[0] for path in CLASSES if len(path) == 1}


@pytest.mark.parametrize(
    ("section", "key", "value", "kind"),
    [
        ("broker", "chunk_size", 7, Class.LIVE),
        ("broker", "lease_seconds", 7, Class.LIVE),
        ("broker", "key_days", 7, Class.LIVE),
        ("broker", "port", 7, Class.REFUSED),
        ("broker", "key_file", "/else", Class.REFUSED),
        ("dataset", "name", "other", Class.REFUSED),
        ("dataset", "delivery", "feeder", Class.REFUSED),
        ("captions", "engine", "scripted", Class.ENGINE),
        ("captions", "pixel_budget", 2048, Class.ENGINE),
        ("captions", "system", "Be brief.", Class.LIVE),
        ("vllm", "model", "m", Class.ELSEWHERE),  # another engine's
        ("worker", "concurrency", 3, Class.ELSEWHERE),
        ("storage", "seal_mib", 3, Class.ELSEWHERE),
        ("metrics", "port", 9000, Class.REFUSED),
    ],
)
def test_what_a_change_is(section: str, key: str, value: object, kind: Class) -> None:
    assert found(config(), config(**{section: {key: value}})) == {f"{section}.{key}": kind}


def test_the_model_is_an_engines_where_vllm_captions() -> None:
    one, other = ({"captions": {"engine": "vllm"}, "vllm": {"model": name, "block_size": ord(name)}} for name in "ab")
    assert found(config(**one), config(**other)) == {"vllm.model": Class.ENGINE, "vllm.block_size": Class.ELSEWHERE}


def test_a_new_slot_opens_a_pass_and_another_prompt_does_not() -> None:
    before = config(captions={"slots": {"short": "Say it."}})
    after = config(captions={"slots": {"short": "Sing it.", "long": "Say all of it."}})
    kinds = found(before, after)
    assert kinds["captions.slots.short.prompt"] is Class.LIVE
    assert {kind for key, kind in kinds.items() if key.startswith("captions.slots.long")} == {Class.OPENS}


def test_values_are_shown_and_secrets_are_not() -> None:
    one, other = ({"captions": {"engine": "vllm"}, "vllm": {"hf_token": word, "seed": 1}} for word in ("abc", "xyz"))
    (secret,) = differences(config(**one), Loaded(config(**other), None, {}))
    assert "abc" not in f"{secret}"
    assert "xyz" not in f"{secret}"
    (plain,) = differences(config(), Loaded(config(broker={"chunk_size": 7}), None, {}))
    assert (plain.before, plain.after) == ("1000", "7")


def test_what_cannot_be_is_a_sentence_with_its_place() -> None:
    loaded = Loaded(config(broker={"port": 7}, dataset={"name": "x"}), None, {"broker.port": "cfbus.yaml:3"})
    assert refusals(differences(config(), loaded)) == [
        "cfbus.yaml:3: broker.port cannot change while the broker runs: a restart of the broker is needed.",
        "dataset.name cannot change while the broker runs: it says what is captioned, and the store is of that alone.",
    ]
