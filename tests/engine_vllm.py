"""The real vLLM with the tiny model, for tests: settings that suit a machine without a GPU, loaded once per process.

Where vLLM is not installed `THERE` is false, and tests of it are skipped with `WHY`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

from cfbus.config import Config
from cfbus.engines.vllm_arguments import checked, installed
from cfbus.engines.vllm_host import Host
from cfbus.engines.vllm_opening import prepare
from cfbus.engines.vllm_template import ModelTemplate

MODEL = Path(__file__).parent / "engines" / "tiny_vlm"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # two spinning threads on a busy machine of two cores are 10 to 20 times slower
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
ARGUMENTS: dict[str, object] = {
    "model": str(MODEL), "dtype": "float32", "enforce_eager": True, "max_num_seqs": 8, "max_model_len": 512,
    "kv_cache_memory_bytes": 64 << 20, "seed": 0,
}  # fmt: skip
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.0, "top_p": 1.0, "max_tokens": 24}

_found = importlib.util.find_spec("vllm")
THERE = _found is not None and _found.origin is not None
WHY = "vLLM is not installed in this environment: make vllm"


def config(**sections: object) -> Config:
    """A configuration with the tiny model."""
    vllm = {**ARGUMENTS, "sampling": GREEDY}
    return Config.model_validate({"vllm": vllm, "captions": {"engine": "vllm"}} | sections)


@functools.cache
def tiny_host() -> Host:
    """The tiny model, loaded in this process; it is never closed."""
    os.environ.update(ENVIRONMENT, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    vllm = config().vllm
    arguments = checked(vllm, installed(), {}, lambda sentence: None)
    prepare(os.environ, "0", 1)
    host = Host(arguments, ModelTemplate(vllm.model, "", trust_remote_code=False))
    host.start()
    return host
