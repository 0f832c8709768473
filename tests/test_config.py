"""cfbus.config, config_file, config_overlay: layers, discovery, what is refused and in which words."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cfbus.config import SCHEMA, SECTIONS, Config, Loaded, load
from cfbus.config_captions import MAX_SLOTS
from cfbus.config_file import MAX_BYTES, Tree, candidates, read_text
from cfbus.config_overlay import overlay_environment, overlay_sets
from cfbus.config_vllm import Vllm
from cfbus.config_words import Section
from cfbus.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def loaded(path: Path | None, *sets: str, **environ: str) -> Loaded:
    return load("broker", path, sets, environ)


def written(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def complaints(path: Path | None, *sets: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(path, *sets, **environ)
    assert caught.value.exit_code == 2
    assert "pydantic" not in str(caught.value).lower()
    lines = caught.value.message.split("\n")
    return [line.replace(f"{path}:", "F:") for line in lines]


# Defaults and layers


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    result = loaded(None, HOME=str(tmp_path / "home"))
    assert result.path is None
    assert result.config == Config()
    assert result.config.broker.port == 7710
    assert result.config.captions.slots["caption"].prompt == "Describe this image."
    assert result.config.broker.data_dir == tmp_path / "cwd/cfbus-store/run"
    assert 1 <= result.config.worker.decoders <= 8


def test_every_key_has_a_description_and_every_number_bounds() -> None:
    for path in SCHEMA.known_paths():
        parent = SCHEMA.kind(path[:-1])
        assert parent is not None
        assert parent.section is not None
        assert parent.section.model_fields[path[-1]].description, path
        kind = SCHEMA.kind(path)
        assert kind is not None
        if kind.annotation in (int, float):
            assert " from " in kind.accepted(), path


def test_later_layers_win(tmp_path: Path) -> None:
    path = written(tmp_path, "broker: {port: 1, stats_port: 2, chunk_size: 3}")
    result = loaded(path, "broker.port=30", "broker.port=31", CFBUS_BROKER__PORT="20", cfbus_Broker__stats_port="21")
    broker = result.config.broker
    assert (broker.port, broker.stats_port, broker.chunk_size) == (31, 21, 3)
    assert result.origins["broker.port"] == "--set broker.port"
    assert result.origins["broker.stats_port"] == "cfbus_Broker__stats_port"
    assert result.origins["broker.chunk_size"] == f"{path}:1"


def test_slots_of_the_file_are_added_to_and_replaced(tmp_path: Path) -> None:
    path = written(tmp_path, "captions:\n  slots: {a: one, b: {prompt: two}}")
    result = loaded(path, "captions.slots.b=2: yes", "captions.slots.a.prompt=1", CFBUS_CAPTIONS__SLOTS__C="[x")
    slots = {name: slot.prompt for name, slot in result.config.captions.slots.items()}
    assert slots == {"a": "1", "b": "2: yes", "c": "[x"}


def test_relative_paths_start_where_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = written(tmp_path / "etc", "storage: {data_dir: store}\ndataset: {paths: [a, /b, ~/c]}")
    config = loaded(path, "worker.spool_dir=sp", CFBUS_ADMIN__KEY_FILE="k").config
    assert config.storage.data_dir == tmp_path / "etc/store"
    assert config.broker.data_dir == tmp_path / "etc/store/run"
    assert config.dataset.paths == (tmp_path / "etc/a", Path("/b"), tmp_path / "home/c")
    assert config.dataset.name == "a"
    assert config.worker.spool_dir == tmp_path / "cwd/sp"
    assert config.admin.key_file == tmp_path / "cwd/k"
    assert config.writer.key_file == tmp_path / "etc/keys/writer.key_secret"


def test_a_relative_config_path_counts_from_the_working_folder(tmp_path: Path) -> None:
    written(tmp_path / "cwd", "storage: {data_dir: s}")
    assert loaded(Path("my.yaml")).config.storage.data_dir == tmp_path / "cwd/s"


@pytest.mark.parametrize("text", ["no", "007", "1e3", "2024-01-02", "12:30", "null x", "~x", "0x10"])
def test_text_stays_as_written(tmp_path: Path, text: str) -> None:
    config = loaded(written(tmp_path, f"worker: {{name: {text}}}"), CFBUS_DATASET__NAME=text).config
    assert config.worker.name == config.dataset.name == text


def test_a_commented_out_section_is_empty(tmp_path: Path) -> None:
    assert loaded(written(tmp_path, "broker:\n  # port: 3\nworker:\n")).config.broker.port == 7710
    assert loaded(written(tmp_path, "# nothing\n")).config.broker.port == 7710


def test_anchors_and_merge_keys_read_as_in_yaml(tmp_path: Path) -> None:
    text = (
        "writer: &w {server: 'tcp://h:1', server_key: k}\nworker:\n  server: tcp://own:2\n  <<: *w\nadmin: {<<: [*w]}"
    )
    config = loaded(written(tmp_path, text)).config
    assert (config.worker.server, config.worker.server_key) == ("tcp://own:2", "k")
    assert config.admin.server == "tcp://h:1"


def test_models_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        Config().broker.port = 3  # type: ignore[misc]
    for section in set(Section.__subclasses__()) - {Vllm}:
        assert section.model_config["extra"] == "forbid"


def test_a_dataset_name_from_a_hostile_folder_is_printable() -> None:
    config = Config.model_validate({"dataset": {"paths": ["/data/a\x1b[31m\udcff"]}})
    assert config.dataset.name == "a\\x1b[31m\\udcff"
    assert Config.model_validate({"dataset": {"paths": ["/"]}}).dataset.name == "root"
    assert Config.model_validate({"dataset": {"paths": ["/a/b/.."]}}).dataset.name == "a"


# Discovery


def test_the_order_of_discovery(tmp_path: Path) -> None:
    environ = {"HOME": "/h", "XDG_CONFIG_HOME": "/x", "XDG_CONFIG_DIRS": "/d1:relative:/d2"}
    found = [str(path) for path in candidates("broker", environ, Path("/w"))]
    folders = ["/w", "/h/.cfbus", "/x/cfbus", "/etc/cfbus", "/d1/cfbus", "/d2/cfbus", "/w/examples"]
    assert found == [f"{folder}/{name}.yaml" for folder in folders for name in ("broker", "cfbus")]


def test_a_link_to_nothing_is_not_passed_over() -> None:
    Path("cfbus.yaml").symlink_to("nowhere.yaml")
    assert complaints(None)[0].endswith("cfbus.yaml: this configuration file does not exist.")


def test_the_order_of_discovery_without_settings() -> None:
    found = [str(path.parent) for path in candidates("gpu", {"HOME": "/h", "XDG_CONFIG_HOME": "rel"}, Path("/w"))]
    assert found[::2] == ["/w", "/h/.cfbus", "/h/.config/cfbus", "/etc/cfbus", "/etc/xdg/cfbus", "/w/examples"]


def test_the_first_file_found_is_taken_whole(tmp_path: Path) -> None:
    home = tmp_path / "home/.cfbus"
    home.mkdir(parents=True)
    (home / "broker.yaml").write_text("broker: {port: 1, chunk_size: 9}")
    (tmp_path / "cwd/cfbus.yaml").write_text("broker: {port: 2}")
    (tmp_path / "cwd/gpu.yaml").write_text("broker: {port: 3}")
    (tmp_path / "cwd/broker.yaml").mkdir()
    result = load("broker", None, (), {"HOME": str(tmp_path / "home")})
    assert (result.path, result.config.broker.port) == (tmp_path / "cwd/cfbus.yaml", 2)
    assert result.config.broker.chunk_size == 1000


# What is refused, and how


def test_all_errors_at_once_each_with_its_place(tmp_path: Path) -> None:
    text = """\
broker:
  prot: 1
  port: abc
  chunk_size: 1.5
  lease_seconds: 100000
storage: {seal_mib: yes}
captions:
  engine: pallette
  slots: {Bad: x, empty: '', many: [1], odd: {prompt: p, heat: 3}}
worker: 5
chunk_size: 3
writer: {server: localhost}
"""
    assert set(complaints(written(tmp_path, text), "broker.host=", "oops", CFBUS_ADMIN__STATS="tcp://h:99999")) == {
        "F:2: broker.prot: no such key; did you mean broker.port?",
        'F:3: broker.port: "abc" is not a whole number from 0 to 65535',
        "F:4: broker.chunk_size: 1.5 is not a whole number from 1 to 100000",
        "F:5: broker.lease_seconds: 100000 is not a whole number from 5 to 86400",
        "F:6: storage.seal_mib: true is not a whole number from 1 to 16384",
        'F:8: captions.engine: "pallette" is not one of palette, scripted, vllm',
        "F:9: captions.slots.Bad: this name is not a small letter, then at most 31 small letters, digits or _",
        'F:9: captions.slots.empty.prompt: "" is not a text of 1 to 8192 characters',
        "F:9: captions.slots.many: a list is not a text or a section with the keys prompt, stage, sampling",
        "F:9: captions.slots.odd.heat: no such key; the keys here are prompt, stage, sampling.",
        "F:10: worker: 5 is not a section with the keys server, server_key, key_file, name, gpu_id, spool_dir,"
        " spool_mib, decoders, when_finished, concurrency",
        "F:11: chunk_size: no such key; did you mean broker.chunk_size?",
        'F:12: writer.server: "localhost" is not an address like tcp://HOST:PORT',
        '--set broker.host: broker.host: "" is not a text of 1 to 255 characters',
        "--set oops: write it as --set section.key=value",
        'CFBUS_ADMIN__STATS: admin.stats: "tcp://h:99999" is not an address like tcp://HOST:PORT',
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("broker: {port: 1\n", r"F:2:1: this is not YAML: .*flow mapping"),
        ("broker:\n\tport: 1\n", r"F:2:1: this is not YAML: .*"),
        ("a: *b\n", r"F:1:4: this is not YAML: found undefined alias 'b'"),
        ("- 1\n", r"F:1: sections like 'broker:' are expected here, not a list"),
        ("hello\n", r"F:1: sections like 'broker:' are expected here, not a single value"),
        ("a: 1\n---\nb: 2\n", r"F:2:1: this is not YAML: .*document"),
        ("a: \x01\n", r"F: this is not YAML: special characters are not allowed"),
        ("[" * 5000, r"F: nested too deeply"),
        ("a: &a [*a]\n", r"F: its aliases"),
        ("broker: &b\n  port: *b\n", r"F: its aliases"),
    ],
)
def test_what_is_no_mapping_of_sections(tmp_path: Path, text: str, expected: str) -> None:
    [line] = complaints(written(tmp_path, text))
    assert re.match(expected.replace("F: ", "F:? ?"), line.replace(str(tmp_path / "my.yaml"), "F")), line


def test_ten_lines_that_would_expand_to_a_billion_values(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    [line] = complaints(written(tmp_path, "\n".join(lines)))
    assert "expand to more than" in line


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!binary", "!mine", "!!set"])
def test_tags_construct_nothing(tmp_path: Path, tag: str) -> None:
    first = complaints(written(tmp_path, f"worker:\n  name: {tag} 'x'\n"))[0]
    assert re.match(r"F:2: the tag .* is not accepted here", first)


def test_duplicate_keys_name_both_lines(tmp_path: Path) -> None:
    text = "broker:\n  port: 1\n  port: 2\nworker: {}\nbroker: {}\n"
    assert complaints(written(tmp_path, text)) == [
        "F:3: broker.port is given twice, first in line 2.",
        "F:5: broker is given twice, first in line 1.",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert complaints(tmp_path / "none.yaml")[0].endswith("does not exist.")
    assert "cannot be read: Is a directory" in complaints(tmp_path)[0]
    large = written(tmp_path, "#" * (MAX_BYTES + 1))
    assert "larger than 1 MiB" in complaints(large)[0]
    large.write_bytes(b"a: 1\nb: \xff\n")
    assert complaints(large) == ["F:2: this is not UTF-8 text."]


def test_a_byte_order_mark_and_windows_lines_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xef\xbb\xbfbroker:\r\n  port: 5\r\n")
    assert loaded(path).config.broker.port == 5


def test_environment_names_that_are_nearly_ours(tmp_path: Path) -> None:
    assert complaints(None, CFBUS_BROKER_PORT="1", CFBUS_BROKER__CHUNKSIZE="1", CFBUS_X__Y="1") == [
        "CFBUS_BROKER_PORT: did you mean CFBUS_BROKER__PORT, with two underscores?",
        "CFBUS_BROKER__CHUNKSIZE: broker.chunksize: no such key; did you mean broker.chunk_size?",
        "CFBUS_X__Y: x: no such key; the keys here are " + ", ".join(SECTIONS) + ".",
    ]
    assert "says the same as" in complaints(None, CFBUS_BROKER__PORT="1", cfbus_broker__port="2")[0]
    assert "CFBUS_BROKER__PORT, with" in complaints(None, CFBUS_BROKER_PROT="1")[0]
    assert complaints(None, CFBUS_BROKER="3") == [
        "CFBUS_BROKER: names a whole section; give one key of it, as CFBUS_BROKER__HOST."
    ]
    loaded(None, CFBUS_SOMETHING="else")


@pytest.mark.parametrize("text", ["hunter2", "[hunter2]", "{a: hunter2}", "hunter2\x1b", "!!int hunter2"])
def test_secrets_are_not_echoed(tmp_path: Path, text: str) -> None:
    yaml = written(tmp_path, f"worker:\n  server_key: {text.replace(chr(27), '')}\n  password: {text[:7]}\n")
    for line in complaints(yaml, f"admin.secret={text}", f"writer.server_key={text}\n", CFBUS_BROKER__TOKEN=text):
        assert "hunter2" not in line


def test_hostile_keys_and_values_are_made_harmless() -> None:
    lines = complaints(None, "broker.\x1b[31m=1", "broker.port=\x1b]0;x\x07", **{"CFBUS_A\x1b__B": "\u202e"})
    assert not re.search("[\x00-\x1f\x7f\u202e]", "".join(lines))


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["dataset.source=scripted"], "needs dataset.items"),
        (["dataset.items=3"], "only for dataset.source: scripted"),
        (["broker.port=7711"], "port and stats_port are both 7711"),
        (["captions.max_pixels=1024"], "pixel_budget"),
        (["captions.slots={}"], "an empty section is not a section of 1 to 16 names"),
        ([f"captions.slots.s{n}=x" for n in range(MAX_SLOTS + 1)], "a section of 17 keys is not"),
        ([f"captions.slots.a={'x' * 8193}"], "1 to 8192 characters"),
        (["captions.slots.a.prompt=\udcff"], "is not a text"),
        (["captions.scripted.rate=.nan"], "nan is not a number from 0"),
        (["captions.scripted.rate=.inf"], "inf is not a number from 0"),
        (["captions.scripted.speed=0"], "0 is not a number from 0.001"),
        (["captions.scripted.failures=true"], "true is not a number from 0 to 1"),
        ([f"broker.port={'9' * 5000}"], "is not a whole number"),
        (["dataset.follow_links=1"], "1 is not true or false"),
        (["dataset.paths=[a, {b: c}]"], "dataset.paths.1: a section of 1 keys is not a path or an address"),
        (["storage.data_dir="], '"" is not a path'),
        (["storage.data_dir=~nobody-here/x"], "is not a path in the home folder of somebody known here"),
        (["worker.name=a\nb"], "is not one line of printable text"),
    ],
)
def test_single_refusals(sets: list[str], expected: str) -> None:
    lines = complaints(None, *sets)
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert len(lines[0]) < 400


def test_two_free_ports_may_both_be_zero() -> None:
    assert loaded(None, "broker.port=0", "broker.stats_port=0").config.broker.port == 0


# Properties

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(["".join(path[-1:]) for path in SCHEMA.known_paths()]) | st.text(max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(SECTIONS), st.dictionaries(_NAMES, _VALUES, max_size=3), max_size=3))
def test_any_mapping_is_a_config_or_a_config_error(tmp_path: Path, values: dict[str, object]) -> None:
    import yaml

    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(values))
    refused = ""
    try:
        loaded(path)
    except ConfigError as error:
        refused = error.message
    assert all("any.yaml" in line for line in refused.splitlines())


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:[]{}&*<!|>-'\"#%@`,? \n\t\\\x00", max_size=40), st.text(max_size=12))
def test_any_text_is_read_or_refused_in_words(text: str, other: str) -> None:
    tree = Tree()
    overlay_sets(tree, [f"broker.port={text}", other, f"{other}={text}"], SCHEMA, Path("/"))
    overlay_environment(tree, {f"CFBUS_{other}": text}, SCHEMA, Path("/"))
    with suppress(ConfigError):
        read_text(text, Path("/x.yaml"), SCHEMA)


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root reads everything
    try:
        assert "cannot be read: Permission denied" in complaints(path)[0]
    finally:
        os.seteuid(user)


def test_prompts_that_are_too_long_together(tmp_path: Path) -> None:
    slots = "".join(f"    s{at}: {'x' * 8000}\n" for at in range(5))
    path = written(tmp_path, f"captions:\n  slots:\n{slots}")
    assert "40000 bytes together" in complaints(path)[0]


@pytest.mark.parametrize(
    ("given", "found"),
    [(0, "0"), ("3", "3"), ("0,1", "0,1"), ("1, 0", "1,0"), ([0, 1], "0,1"), ([1023], "1023"),
     ("GPU-8932f937-d72c,MIG-GPU-12ab/1/0", "GPU-8932f937-d72c,MIG-GPU-12ab/1/0"), (["GPU-8932f937"], "GPU-8932f937")],
)  # fmt: skip
def test_gpus_are_given_as_number_list_or_text(given: object, found: str) -> None:
    assert Config.model_validate({"worker": {"gpu_id": given}}).worker.gpu_id == found


@pytest.mark.parametrize(
    "given",
    [-1, 1024, "", "0,", "01", "0,0", "GPU-abcd,gpu-ABCD", True, 1.0, None, [], [True], "cuda:0", "GPU-", "0;1",
     "../0", list(range(65)), {"a": 1}],
)  # fmt: skip
def test_what_names_no_gpu_is_told_in_a_sentence(given: object) -> None:
    with pytest.raises(ValidationError, match="a GPU or several, each once"):
        Config.model_validate({"worker": {"gpu_id": given}})
