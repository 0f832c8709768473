"""`cfbus init --from`: every key is told about, what is carried over loads, bad files are refused, nothing leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfbus import config
from cfbus.errors import ConfigError, UsageError
from cfbus.tools import captionflow, init
from cfbus.tools.captionflow_keys import COMPONENTS, HUB_KEYS, ROWS, SOURCES, Fate

SECRET = "worker-alpha-2024"

VALUES: dict[str, Any] = {
    "broker.host": "0.0.0.0", "broker.port": 8765, "broker.chunk_size": 500, "dataset.name": "007",
    "dataset.source": "local_filesystem", "dataset.paths": "pictures", "dataset.follow_links": True,
    "storage.data_dir": "fresh", "vllm.model": "a/b", "vllm.revision": "main", "vllm.dtype": "half",
    "vllm.tensor_parallel_size": 2, "vllm.gpu_memory_utilization": 0.5, "vllm.max_model_len": 4096,
    "vllm.max_num_seqs": 32, "vllm.enforce_eager": True, "vllm.limit_mm_per_prompt": {"image": 2},
    "vllm.trust_remote_code": True, "vllm.sampling.temperature": 0, "vllm.sampling.top_p": 1, "vllm.sampling.top_k": 5,
    "vllm.sampling.min_p": 0.1, "vllm.sampling.max_tokens": 9, "vllm.sampling.repetition_penalty": 1.5,
    "vllm.sampling.presence_penalty": -1, "vllm.sampling.frequency_penalty": 0.5, "vllm.sampling.stop": ["no"],
    "vllm.sampling.seed": 3, "vllm.sampling.skip_special_tokens": False, "vllm.inference_prompts": ["no", "007"],
    "vllm.*": {"level": [1, "no"]}, "worker.name": "007", "worker.gpu_id": 1, "worker.concurrency": 512,
    "vllm.mm_processor_cache_gb": True, "worker.server": "wss://bus.example.org:8765",
    "admin.server": "ws://127.0.0.1:8765",
    "dataset.hub_config": "small", "dataset.split": "train", "dataset.image_column": "picture",
    "dataset.url_column": "link",
    "captions.stages": [{"name": "see", "prompts": ["no"], "output_field": "caption"},
                        {"name": "sum", "prompts": ["007 {caption}"], "requires": ["see"]}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir(exist_ok=True)


def converted(text: str) -> captionflow.Conversion:
    Path("theirs.yaml").write_text(text, encoding="utf-8")
    return captionflow.convert(Path("theirs.yaml"))


def loaded(done: captionflow.Conversion) -> config.Config:
    return config.load("init", init.NO_FILE, done.options, {}).config


def ran(text: str, *arguments: str) -> Result:
    Path("theirs.yaml").write_text(text, encoding="utf-8")
    return CliRunner().invoke(init.command, ["bus", "--from", "theirs.yaml", *arguments])


def file_of(keys: list[str]) -> str:
    tree: dict[str, Any] = {}
    for key in keys:
        row = ROWS[key]
        *above, last = key.replace("*", "other").split(".")
        section = tree
        for name in above:
            section = section.setdefault(name, {})
        section[last] = VALUES[row.ours] if row.ours else [{"token": SECRET, "name": "x"}]
    return json.dumps(tree, indent=1)


# Every key


@pytest.mark.parametrize("key", ROWS)
def test_every_key_is_handled(key: str) -> None:
    of_the_hub = key.rpartition(".")[2] in HUB_KEYS
    needs = ["orchestrator.dataset.type"] if key.startswith("orchestrator.dataset.") and not of_the_hub else []
    done = converted(file_of([*needs, key]))
    told = next(each for each in done.told if each.key == key.replace("*", "other"))
    assert told.fate is ROWS[key].fate
    ours = ROWS[key].ours.replace("*", "other")
    assert told.ours.split(", ")[0] == ours
    assert not ours or ours in done.sets
    assert told.line.isdecimal()
    loaded(done)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(list(ROWS)), min_size=1), st.booleans())
def test_any_keys_together_load_and_each_is_told_once(keys: set[str], reverse: bool) -> None:
    wanted = sorted(keys, reverse=reverse)
    done = converted(file_of(wanted))
    assert sorted(each.key for each in done.told) == sorted(key.replace("*", "other") for key in wanted)
    loaded(done)
    said = "\n".join(captionflow.report(done))
    assert SECRET not in said
    assert all(key.replace("*", "other") in said for key in wanted)


def test_values_arrive_as_they_were_written() -> None:
    keys = [key for key in ROWS if key.startswith("orchestrator.")]
    settings = loaded(converted(file_of(keys)))
    assert settings.broker.chunk_size == 500
    assert settings.dataset.name == "007"
    assert settings.dataset.paths == (Path.cwd() / "pictures",)
    assert settings.storage.data_dir == Path.cwd() / "fresh"
    assert settings.worker.concurrency == 512
    assert settings.vllm.sampling.stop == ("no",)
    assert [slot.prompt for slot in settings.captions.slots.values()] == ["no", "007 {caption}"]
    assert settings.vllm.engine_arguments == {"other": {"level": [1, "no"]}, "mm_processor_cache_gb": 0}


# Special keys


STAGES = """
orchestrator:
  vllm:
    model: a/b
    sampling: {temperature: 0.5, max_tokens: 100}
    inference_prompts: [never asked]
    stages:
      - name: Look closely
        prompts: [yes, "describe {column:title}"]
        output_field: details
      - name: 007
        model: a/b
        prompts: ["{details} {Look closely_output_1} {other}"]
        sampling: {max_tokens: 9, best_of: 3}
        dtype: float16
      - name: last
        prompts: ["from {captions}"]
        requires: ["Look closely"]
"""


def test_stages_become_stages_and_their_prompts_slots() -> None:
    """A name is text as written, a prompt holds what it held there, and the later of two equal fields counts."""
    done = converted(STAGES.replace("{Look closely_output_1}", "{007_output_0}"))
    captions = loaded(done).captions
    assert {name: (stage.requires, stage.output_field) for name, stage in captions.stages.items()} == {
        "look_closely": ((), "details"),
        "s_007": (("look_closely",), "captions"),
        "last": (("look_closely", "s_007"), "last"),
    }
    assert {name: (slot.stage, slot.prompt) for name, slot in captions.slots.items()} == {
        "details_1": ("look_closely", "yes"),
        "details_2": ("look_closely", "describe {column:title}"),
        "captions": ("s_007", "{details} {007_output_0} {other}"),
        "last": ("last", "from {captions}"),
    }
    assert captions.stages["s_007"].sampling.model_dump(exclude_unset=True) == {"max_tokens": 9}
    said = "\n".join(captionflow.report(done))
    assert "line 6: orchestrator.vllm.inference_prompts" in said
    assert "Of the stage s_007 is not carried over: dtype, sampling.best_of." in said


def test_a_result_of_a_stage_by_number_is_a_slot_by_name() -> None:
    stages = [{"name": "a", "prompts": ["x", "y"]}, {"name": "b", "prompts": ["{a_output_1}, {a_output_7}"]}]
    captions = loaded(converted(json.dumps({"orchestrator": {"vllm": {"stages": stages}}}))).captions
    assert captions.slots["b"].prompt == "{captions_2}, {a_output_7}"
    assert captions.stages["b"].requires == ("a",)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ("[{name: a, prompts: [x], model: other/one}]", "a worker has one model for now"),
        ('[{name: a, prompts: ["{b_output_0}"]}, {name: b, prompts: ["{a_output_0}"]}]', "requires itself"),
        ("[{name: a, prompts: [x], requires: [nobody]}]", "there is no stage 'nobody'"),
        ("[{name: a}]", "captions.slots"),
        ("[{prompts: [x]}]", "captions.stages"),
        ("{a: {prompts: [x]}}", "captions.stages"),
    ],
)
def test_stages_that_are_no_plan_are_refused_with_their_line(stages: str, sentence: str) -> None:
    done = ran(f"orchestrator:\n  vllm:\n    model: a/b\n    stages: {stages}\n")
    assert done.exit_code == 2
    assert "theirs.yaml:4" in done.stderr
    assert sentence in done.stderr


def test_batches_that_are_small_leave_the_default() -> None:
    done = converted("orchestrator: {vllm: {batch_size: 8}}")
    assert not done.options
    assert done.told[0].fate is Fate.OBSOLETE
    assert "stays 64" in done.told[0].why


@pytest.mark.parametrize("there", ["file", "used"])
def test_a_folder_that_holds_something_is_no_new_store(there: str) -> None:
    Path("used").mkdir()
    Path("used/captions.lance").touch()
    Path("file").touch()
    Path("empty").mkdir()
    done = converted(f"orchestrator: {{storage: {{data_dir: {there}}}}}")
    assert not done.options
    assert "stays as it is" in done.told[0].why
    assert converted("orchestrator: {storage: {data_dir: empty}}").options


@pytest.mark.parametrize("kind", SOURCES)
def test_kinds_of_datasets(kind: str) -> None:
    done = converted(f"orchestrator: {{dataset: {{processor_type: {kind}, dataset_path: pictures}}}}")
    here, pattern = SOURCES[kind]
    assert loaded(done).dataset.paths == (Path.cwd() / "pictures" / pattern,)
    assert loaded(done).dataset.source == here


def test_a_kind_of_dataset_that_is_not_known() -> None:
    done = converted("orchestrator: {dataset: {processor_type: arrows, dataset_path: pictures}}")
    assert not done.options
    assert {each.fate for each in done.told} == {Fate.LATER}
    assert all("not here yet" in each.why for each in done.told)


def test_a_dataset_of_the_hub() -> None:
    text = (
        "orchestrator: {dataset: {processor_type: huggingface_datasets, dataset_path: org/set, dataset_config: small,"
        " dataset_split: train, dataset_image_column: picture}}"
    )
    settings = loaded(converted(text)).dataset
    assert (settings.source, settings.paths) == ("huggingface", ("hf://org/set",))
    assert (settings.hub_config, settings.split, settings.image_column) == ("small", "train", "picture")
    other = converted("orchestrator: {dataset: {type: local, path: pictures, split: train}}")
    assert loaded(other).dataset.split == ""


def test_a_folder_of_images_that_is_not_here_is_told() -> None:
    done = converted("orchestrator: {dataset: {type: local, path: /nowhere/at/all}}")
    assert any("no folder /nowhere/at/all" in note for note in done.notes)


@pytest.mark.parametrize(
    ("server", "ours"),
    [
        ("ws://localhost:8765", "tcp://localhost:8765"),
        ("wss://bus.example.org", "tcp://bus.example.org:7710"),
        ("wss://[2001:db8::1]:99/path", "tcp://[2001:db8::1]:99"),
    ],
)
def test_addresses(server: str, ours: str) -> None:
    done = converted(f"worker: {{server: '{server}', token: {SECRET}}}")
    assert loaded(done).worker.server == ours
    assert any("server_key" in note for note in done.notes) == ("localhost" not in server)


def test_monitors_learn_where_statistics_are() -> None:
    settings = loaded(converted("monitor: {server: 'ws://bus:1'}"))
    assert (settings.admin.server, settings.admin.stats) == ("tcp://bus:1", "tcp://bus:7711")


def test_inference_is_another_word_for_vllm_and_counts() -> None:
    done = converted("orchestrator: {vllm: {model: old/one}, inference: {model: new/one}}")
    assert loaded(done).vllm.model == "new/one"
    assert "counts" in next(each.why for each in done.told if each.key == "orchestrator.vllm")


def test_the_engine_is_chosen() -> None:
    text = "orchestrator: {vllm: {model: a/b}}"
    assert converted(text).options[-1].path == ("captions", "engine")
    assert any("trust_remote_code" in note for note in converted(text).notes)
    assert converted("worker: {name: x}").notes == []


# Shapes of files


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("host: h\nport: 1\nvllm: {model: a}", "port"),
        ("server: ws://h:1\ntoken: x\nname: 007", "name"),
        ("server: ws://h:1\nrefresh_rate: 1\nshow_contributors: true", "refresh_rate"),
        ("orchestrator: {port: 1}\nauth: {worker_tokens: []}", "auth.worker_tokens"),
        ("orchestrator:\nmonitor: {refresh_rate: 1}\nworker: {gpu_id: 3}", "worker.gpu_id"),
    ],
)
def test_sections_may_be_left_out_or_stand_together(text: str, key: str) -> None:
    done = converted(text)
    assert all(each.fate is not None for each in done.told)
    assert key in {each.key for each in done.told}
    loaded(done)


def test_unknown_keys_are_told_and_not_carried_over() -> None:
    done = converted("other: 1\norchestrator: {chunk_sise: 5, vllm: {Bad Key.x: 1, ok_key: 2}}")
    unknown = {each.key: each.why for each in done.told if each.fate is None}
    assert unknown == {
        "other": "",
        "orchestrator.chunk_sise": "Did you mean orchestrator.chunk_size?",
        "orchestrator.vllm.Bad Key.x": "",
    }
    assert [option.path for option in done.options] == [("vllm", "ok_key"), ("captions", "engine")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "theirs.yaml: there is nothing in it."),
        ("# nothing\n", "there is nothing in it"),
        ("- a\n", "1: sections like"),
        ("a: b: c", "this is not YAML"),
        ("\tx: 1", "this is not YAML"),
        ("name: x\nservices: {}\nversion: 3", "this is no configuration of CaptionFlow"),
        ("captions: {engine: palette}", "a configuration of cfbus already"),
        ("orchestrator: 5", "1: orchestrator: a section is expected here."),
        ("orchestrator: {storage: here}", "orchestrator.storage: a section is expected here."),
        ("orchestrator:\n  port: 1\n  port: 2", "3: orchestrator.port is given twice"),
        ("orchestrator: {vllm: {model: [a]}}", "orchestrator.vllm.model: a text is expected here."),
        ("orchestrator: {auth: !!python/object:os.system {}}", "is not accepted here"),
    ],
)
def test_files_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        converted(text)
    assert words in str(caught.value)
    assert ran(text).exit_code == 2
    assert not Path("bus").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "orchestrator:\n  port: '8765'",
            'theirs.yaml:2: orchestrator.port: broker.port: "8765" is not a whole',
        ),
        ("orchestrator: {vllm: {batch_size: x}}", "orchestrator.vllm.batch_size: worker.concurrency"),
        (
            "orchestrator: {vllm: {sampling: {top_p: 7}}}",
            "top_p: vllm.sampling.top_p: 7 is not a number from",
        ),
        ("orchestrator: {vllm: {inference_prompts: ['']}}", "theirs.yaml:1: orchestrator.vllm.inference_prompts"),
        ("worker: {server: 'http://x'}", "is not an address like tcp://HOST:PORT"),
        ("worker: {server: 'ws://[x'}", "is not an address like tcp://HOST:PORT"),
        ("worker: {precision: fp16}", 'worker.precision: vllm.dtype: "fp16" is not one of'),
        ("orchestrator: {dataset: {type: local, path: {a: 1}}}", "dataset.paths"),
    ],
)
def test_values_that_are_refused_are_told_with_their_own_line(text: str, words: str) -> None:
    said = ran(text)
    assert said.exit_code == 2
    assert words in said.output
    assert not Path("bus").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no file nowhere\.yaml"):
        captionflow.convert(Path("nowhere.yaml"))
    with pytest.raises(ConfigError, match="Is a directory"):
        captionflow.convert(tmp_path)
    Path("theirs.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        captionflow.convert(Path("theirs.yaml"))


# The whole of it


def test_init_writes_what_it_tells(tmp_path: Path) -> None:
    said = ran(file_of([key for key in ROWS if key.partition(".")[0] in COMPONENTS]))
    assert said.exit_code == 0, said.output
    assert SECRET not in said.output
    written = tmp_path / "bus" / "cfbus.yaml"
    assert SECRET not in written.read_text()
    for title in ("Kept:", "Changed:", "nothing is missing:", "Not here yet:", "What to look at:"):
        assert title in said.output
    assert "orchestrator.auth.worker_tokens" in said.output
    settings = config.load("gpu", written, (), {}).config
    assert settings.broker.port == 8765
    assert settings.writer.server == "tcp://127.0.0.1:8765"
    assert settings.worker.server == "tcp://bus.example.org:8765"
    assert settings.worker.server_key


def test_what_is_typed_counts_more_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"")
    text = "orchestrator: {port: 1, dataset: {type: local, path: pictures}}"
    said = ran(text, "--images", "mine", "--set", "broker.port=7720")
    assert said.exit_code == 0, said.output
    settings = config.load("gpu", tmp_path / "bus" / "cfbus.yaml", (), {}).config
    assert (settings.broker.port, settings.dataset.paths) == (7720, (tmp_path / "mine",))


def test_hostile_keys_are_shown_harmless() -> None:
    said = ran('orchestrator: {"a\\e[31m": 1, vllm: {"b\\r": 2}}')
    assert said.exit_code == 0
    assert "\x1b" not in said.output
    assert "a\\x1b[31m" in said.output
