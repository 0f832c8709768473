"""Arguments of vLLM's engine: against made-up and recorded versions of it, without vLLM."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cfbus.config import Config
from cfbus.config_file import Value
from cfbus.engines.vllm_arguments import GONE, RENAMES, Installed, checked, installed, names_in
from cfbus.engines.vllm_gpus import needed
from cfbus.engines.vllm_opening import prepare
from cfbus.errors import ConfigError

RECORDED = json.loads((Path(__file__).parent / "vllm_arguments.json").read_text())
VERSIONS = sorted(RECORDED)
VISIBLE = "CUDA_VISIBLE_DEVICES"


def there(version: str) -> Installed:
    return Installed(version, frozenset(RECORDED[version]))


def arguments(version: str, **vllm: object) -> tuple[dict[str, Value], list[str]]:
    said: list[str] = []
    settings = Config.model_validate({"vllm": vllm}).vllm
    origins = {f"vllm.{key}": f"my.yaml:{number}" for number, key in enumerate(vllm, 1)}
    return checked(settings, there(version), origins, said.append), said


def refused(version: str, **vllm: object) -> str:
    with pytest.raises(ConfigError) as caught:
        arguments(version, **vllm)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("version", VERSIONS)
def test_what_every_configuration_passes_on_is_known_to_each_version(version: str) -> None:
    found, said = arguments(
        version, model="a/b", revision="r", max_model_len=512, max_num_seqs=8, kv_cache_memory_bytes=1, seed=0
    )
    assert found["code_revision"] == "r"
    assert found["limit_mm_per_prompt"] == {"image": 1}
    assert found["enable_prefix_caching"] is True
    assert bool(said) == (version.rpartition(".")[0] not in ("0.28", "0.32"))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_argument_is_told_with_its_line_and_the_nearest(version: str) -> None:
    told = refused(version, model="a", max_num_batched_token=9, wholly_unheard_of=1)
    assert told.splitlines() == [
        f"my.yaml:2: vllm.max_num_batched_token: vLLM {version} has no argument max_num_batched_token; did you mean"
        f" {told.splitlines()[0].partition('did you mean ')[2]}",
        f"my.yaml:3: vllm.wholly_unheard_of: vLLM {version} has no argument wholly_unheard_of; look for it in vLLM's"
        " list of engine arguments",
    ]
    assert "max_num_batched_tokens" in told


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("given", "new", "value"),
    [
        ({"disable_mm_preprocessor_cache": True}, "mm_processor_cache_gb", 0),
        ({"disable_mm_preprocessor_cache": False}, "mm_processor_cache_gb", 4),
        ({"task": "generate"}, "runner", "generate"),
        ({"guided_decoding_backend": "xgrammar"}, "structured_outputs_config", {"backend": "xgrammar"}),
    ],
)
def test_old_names_are_passed_on_under_the_new_and_said(
    version: str, given: dict[str, Value], new: str, value: Value
) -> None:
    found, said = arguments(version, **given)
    assert found[new] == value
    (old,) = given
    assert old not in found
    assert f"vllm.{old} is called {new} in vLLM {version}; it is passed on as {new}: {value}." in said


def test_every_rename_has_a_case_here_and_is_none_in_any_version() -> None:
    assert set(RENAMES) == {"disable_mm_preprocessor_cache", "task", "guided_decoding_backend"}
    for version in VERSIONS:
        assert not (set(RENAMES) | set(GONE)) & set(RECORDED[version])
        assert {rename.new for rename in RENAMES.values()} <= set(RECORDED[version])


def test_a_task_that_writes_no_captions_and_what_is_gone_are_refused() -> None:
    assert refused(VERSIONS[0], task="embed").endswith("captions are made by a model that generates")
    assert "any more (vLLM computes anew" in refused(VERSIONS[0], swap_space=4)


def test_an_old_name_that_this_version_still_knows_is_left_alone() -> None:
    old = Installed("0.28.1", frozenset(RECORDED[VERSIONS[0]]) | {"task"})
    settings = Config.model_validate({"vllm": {"task": "generate"}}).vllm
    assert checked(settings, old, {}, lambda sentence: None)["task"] == "generate"


# What is installed


def fake(folder: Path, version: str, source: str) -> str:
    """An environment that seems to hold a vLLM; what `installed` says there."""
    (folder / "vllm" / "engine").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text("raise SystemExit('vllm was imported')")
    (folder / "vllm" / "engine" / "arg_utils.py").write_text(source)
    info = folder / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    code = (
        "from cfbus.engines.vllm_arguments import installed\n"
        "from cfbus.errors import ConfigError\n"
        "try: print(installed())\n"
        "except ConfigError as error: print(error)"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


ARGS = """
class EngineArgs:
    model: str = "x"
    def f(self): pass
class AsyncEngineArgs(EngineArgs):
    log: int = 1
"""


def test_names_are_read_without_importing_vllm(tmp_path: Path) -> None:
    told = fake(tmp_path, "0.32.0", ARGS)
    assert "version='0.32.0'" in told
    assert "'model'" in told
    assert "'log'" in told


def test_versions_that_could_run_a_models_code_unasked_are_refused(tmp_path: Path) -> None:
    assert fake(tmp_path, "0.17.9", ARGS).startswith("vLLM 0.17.9 is too old: before 0.18 a model's own code could run")


def test_a_vllm_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert "cannot be read from" in fake(tmp_path, "0.32.0", "class EngineArgs(:")
    with pytest.raises(ConfigError, match="Install vLLM anew"):
        names_in(tmp_path / "nothing.py")


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        installed()
    assert 'pip install "cfbus[vllm]"' in str(caught.value)


# The environment


@pytest.mark.parametrize(
    ("visible", "gpu_id", "count", "found"),
    [
        (None, "0", 1, "0"),
        ("", "2", 1, "2"),
        (None, "2", 2, "2,3"),
        (None, "3,1", 2, "3,1"),
        (None, "GPU-abcd,MIG-GPU-12ab/1/0", 2, "GPU-abcd,MIG-GPU-12ab/1/0"),
        ("4,5,6", "1", 2, "5,6"),
        ("4,5,6", "2,0", 2, "6,4"),
        ("GPU-aaaa1, GPU-bbbb1", "1", 1, "GPU-bbbb1"),
        ("GPU-aaaa1,GPU-bbbb1", "gpu-BBBB", 1, "GPU-bbbb1"),
    ],
)
def test_gpus_are_counted_among_those_that_were_handed_out(
    visible: str | None, gpu_id: str, count: int, found: str
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    prepare(environ, gpu_id, count)
    assert environ["CUDA_VISIBLE_DEVICES"] == found
    assert environ["VLLM_NO_USAGE_STATS"] == "1"
    assert environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


@pytest.mark.parametrize(
    ("visible", "gpu_id", "count", "said"),
    [
        ("0,1,2", "3", 1, "GPU 3 is wanted"),
        ("0,1", "1", 2, "GPU 2 is wanted"),
        ("4,5", "GPU-abcd", 1, "GPU GPU-abcd is wanted"),
        ("GPU-aaaa1,GPU-aaaa2", "GPU-aaaa", 1, "GPU GPU-aaaa is wanted"),
        ("GPU-aaaa1,GPU-bbbb1", "0,GPU-aaaa", 2, "names a GPU twice"),
        (None, "0,1", 1, "names 2 GPUs (0,1), and the model is spread over 1"),
        (None, "0,1", 4, "names 2 GPUs (0,1), and the model is spread over 4"),
        (None, "GPU-abcd", 2, "names 1 GPU (GPU-abcd), and the model is spread over 2"),
    ],
)
def test_a_gpu_that_cannot_be_meant_is_an_error(visible: str | None, gpu_id: str, count: int, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        prepare({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, gpu_id, count)


def test_the_gpus_of_a_model_are_those_of_all_kinds_of_parallelism() -> None:
    assert needed(Config.model_validate({"vllm": {"tensor_parallel_size": 2}}).vllm) == 2
    spread = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "data_parallel_size": 2}
    assert needed(Config.model_validate({"vllm": spread}).vllm) == 12


def test_the_gpus_are_chosen_before_vllm_or_torch_is_imported(tmp_path: Path) -> None:
    """In a fresh process, with packages of these names that say what they find when they are imported."""
    for name in ("vllm", "torch", "transformers"):
        (tmp_path / name).mkdir()
        told = f"import os; open({str(tmp_path / 'told')!r}, 'a').write({name!r} + os.environ.get('{VISIBLE}', '-'))"
        (tmp_path / name / "__init__.py").write_text(f"{told}\nraise ImportError('no more of it')\n")
    (tmp_path / "vllm" / "engine").mkdir()
    (tmp_path / "vllm" / "engine" / "arg_utils.py").write_text(
        "class EngineArgs:\n" + "".join(f"    {name}: int = 1\n" for name in RECORDED[VERSIONS[-1]])
    )
    info = tmp_path / "vllm-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    flags = ["--gpu-id", "1,0", "--set", "captions.engine=vllm", "--set", "vllm.tensor_parallel_size=2"]
    subprocess.run(
        [sys.executable, "-m", "cfbus.daemons.gpu", "--show-report", *flags],
        capture_output=True, cwd=tmp_path, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), VISIBLE: "GPU-aaaa1,GPU-bbbb1"},
    )  # fmt: skip
    told = (tmp_path / "told").read_text()
    assert told.endswith("GPU-bbbb1,GPU-aaaa1")
    assert told.count("GPU-bbbb1,GPU-aaaa1") == sum(told.count(name) for name in ("vllm", "torch", "transformers"))


@pytest.mark.parametrize(
    ("given", "token"),
    [
        ({"HF_TOKEN": "hf_aaaaaaaa"}, "hf_aaaaaaaa"),
        ({"HUGGINGFACE_HUB_TOKEN": "hf_bbbbbbbb"}, "hf_bbbbbbbb"),
        ({}, None),
    ],
)
def test_the_hubs_token_goes_by_both_names_and_is_a_secret(given: dict[str, str], token: str | None) -> None:
    environ = dict(given)
    prepare(environ, "0", 1)
    assert environ.get("HF_TOKEN") == token
