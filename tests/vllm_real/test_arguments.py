"""The arguments of the vLLM that is installed here: read from its source, and the same as its classes have."""

from __future__ import annotations

import dataclasses

import engine_vllm
import pytest

from cfbus.config import Config
from cfbus.config_file import Value
from cfbus.engines.vllm_arguments import RENAMES, TESTED, checked, installed
from cfbus.engines.vllm_host import Host
from cfbus.errors import ConfigError


def arguments(**vllm: object) -> tuple[dict[str, Value], list[str]]:
    said: list[str] = []
    settings = Config.model_validate({"vllm": {"model": "a", **vllm}}).vllm
    return checked(settings, installed(), {name: f"vllm.{name}" for name in vllm}, said.append), said


def test_the_names_that_are_read_are_those_that_the_classes_take() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    there = installed()
    assert there.release in TESTED
    assert there.names == {field.name for field in dataclasses.fields(AsyncEngineArgs)}


def test_an_unknown_one_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        arguments(max_num_batched_token=9, wholly_unheard_of=1)
    first, second = caught.value.message.splitlines()
    assert "has no argument max_num_batched_token; did you mean max_num_batched_tokens" in first
    assert "has no argument wholly_unheard_of" in second
    assert installed().version in first


@pytest.mark.parametrize(("old", "value"), [("task", "generate"), ("disable_mm_preprocessor_cache", True)])
def test_an_old_name_is_passed_on_under_one_that_the_class_takes(old: str, value: Value) -> None:
    from vllm.engine.arg_utils import EngineArgs

    found, (said,) = arguments(**{old: value})
    assert RENAMES[old].new in found
    assert old in said
    assert getattr(EngineArgs(**found | {"model": str(engine_vllm.MODEL)}), RENAMES[old].new) == RENAMES[old].value(
        value
    )


def test_the_engine_that_was_started_with_them_has_them(host: Host) -> None:
    running = host._running
    assert running is not None
    assert running.model_config.max_model_len == engine_vllm.ARGUMENTS["max_model_len"]
    assert running.model_config.seed == engine_vllm.ARGUMENTS["seed"]
