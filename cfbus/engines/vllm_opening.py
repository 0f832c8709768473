"""From the configuration to a loaded model: arguments, environment, GPUs, template, engine.

Everything that can be wrong without loading anything is said before anything is loaded.

Invariant: the environment that vLLM and torch read is complete before either is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping

from cfbus import logs
from cfbus.config import Config
from cfbus.decoding import DecodePool
from cfbus.engines.base import Post, Read
from cfbus.engines.vllm_arguments import checked, installed
from cfbus.engines.vllm_engine import VllmEngine
from cfbus.engines.vllm_gpus import chosen, needed
from cfbus.engines.vllm_host import Host
from cfbus.engines.vllm_template import ModelTemplate
from cfbus.errors import CfbusError
from cfbus.gpus import BY_BUS
from cfbus.sources.base import DISK_READERS

QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Sockets and CUDA do not survive a fork of this process.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "TOKENIZERS_PARALLELISM": "false",
    # A GPU's number is then the one that nvidia-smi and this worker's own figures know it by.
    "CUDA_DEVICE_ORDER": BY_BUS,
}
"""What vLLM is told unless the environment says otherwise: send nothing home, start children afresh,
count GPUs as their driver does."""


def open_vllm(
    settings: Config,
    origins: Mapping[str, str],
    read: Read,
    pool: DecodePool,
    post: Post,
    give_up: Callable[[CfbusError], None] | None,
    readers: int = DISK_READERS,
) -> VllmEngine:
    """Load the model of this configuration; takes seconds to minutes. Raises ConfigError."""
    vllm = settings.vllm
    log = logs.get_logger()
    there = installed()
    arguments = checked(vllm, there, origins, lambda sentence: log.warning("vllm.arguments", says=sentence))
    prepare(os.environ, settings.worker.gpu_id, needed(vllm))
    template = ModelTemplate(vllm.model, vllm.revision, trust_remote_code=vllm.trust_remote_code)
    log.info("vllm.loads", model=vllm.model, version=there.version, gpus=os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    host = Host(arguments, template, golden=vllm.golden_check)
    if give_up is not None:
        host.give_up = give_up
    host.start()
    return VllmEngine(host, vllm, there.version, read, pool, post, readers=readers)


def prepare(environ: MutableMapping[str, str], gpu_id: str, count: int) -> None:
    """Choose the GPUs, and set what vLLM and the hub's client read. Raises ConfigError for a GPU that is not there."""
    for name, value in QUIET.items():
        environ.setdefault(name, value)
    token = environ.get("HF_TOKEN") or environ.get("HUGGINGFACE_HUB_TOKEN")
    if token:
        environ["HF_TOKEN"] = token
        logs.register_secret(token)
    environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen(environ, gpu_id, count))
