"""cfbus.config_words: the commented file explains every key and reads back as what was written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfbus.config import SCHEMA, SECTIONS, Config, load, write_commented
from cfbus.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


_PROMPTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
_SAMPLING = st.fixed_dictionaries(
    {}, optional={"seed": st.none() | st.integers(0, 9), "stop": st.lists(st.sampled_from(["no", "\n"]), max_size=2)}
)
_CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "storage": st.fixed_dictionaries(
            {}, optional={"data_dir": st.sampled_from(["s", "/s", "a b: #c", "~x", "\x85"])}
        ),
        "dataset": st.fixed_dictionaries(
            {"paths": st.lists(st.sampled_from(["a", "/b/#", "-", "no", "\x85", "\udcff"]), max_size=3)}
        ),
        "captions": st.fixed_dictionaries(
            {}, optional={"slots": st.dictionaries(st.sampled_from(["a", "no", "x1"]), _PROMPTS, min_size=1)}
        ),
        "worker": st.fixed_dictionaries(
            {}, optional={"gpu_id": st.integers(0, 9), "name": st.sampled_from(["007", "é"])}
        ),
        "vllm": st.fixed_dictionaries(
            {}, optional={"model": st.sampled_from(["a/b", "007"]), "kv_cache_dtype": _VALUES, "sampling": _SAMPLING}
        ),
        "broker": st.fixed_dictionaries({}, optional={"port": st.integers(0, 7000), "key_file": st.just("/f/k")}),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_CONFIGS, st.booleans())
def test_what_is_written_reads_back_the_same(tmp_path: Path, values: dict[str, object], same: bool) -> None:
    folder = tmp_path / "f"
    folder.mkdir(exist_ok=True)
    base = folder if same else Path("/elsewhere")
    for name, section in list(values.items()):
        if isinstance(section, dict) and isinstance(section.get("data_dir"), str):
            values[name] = section | {"data_dir": base / section["data_dir"]}
    config = Config.model_validate(dict.fromkeys(SECTIONS) | values, context={"folder": base})
    text = write_commented(config, folder)
    path = folder / "w.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    assert load("broker", path, (), {}).config == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("borker: {port: 1}", "borker: no such key; did you mean broker?"),
        ("Broker: {port: 1}", "Broker: no such key; did you mean broker?"),
        ("broker: {PORT: 1}", "broker.PORT: no such key; did you mean broker.port?"),
        ("captions: {slots: [a, b]}", "a list is not a section of 1 to 16 names, each with its prompt"),
        ('broker: {port: "7710"}', '"7710" is not a whole number from 0 to 65535; write it without quotes'),
        ("broker: {lease_seconds: 010}", '"010" is not a whole number from 5 to 86400'),
        ("broker: {lease_seconds: 1:30}", '"1:30" is not a whole number from 5 to 86400'),
    ],
)
def test_what_newcomers_write_is_answered_with_what_to_do(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load("broker", path, (), {})
    assert str(caught.value).endswith(words)


def test_the_written_file_explains_every_key_and_is_short_of_noise(tmp_path: Path) -> None:
    config = load("broker", None, ["storage.data_dir=s", "dataset.paths=[pics]"], {}).config
    text = write_commented(config, tmp_path / "cwd")
    for path in SCHEMA.known_paths():
        assert re.search(rf"^ *#?{path[-1]}:", text, re.MULTILINE), path
    assert "  data_dir: s\n" in text
    assert "  paths: [pics]\n" in text
    assert "  #data_dir: s/run\n" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "broker:" not in write_commented(config, tmp_path, ["worker"])


def test_a_default_follows_what_it_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(write_commented(load("broker", None, ["storage.data_dir=/one"], {}).config, tmp_path))
    assert load("broker", path, ["storage.data_dir=/two"], {}).config.broker.data_dir == Path("/two/run")
