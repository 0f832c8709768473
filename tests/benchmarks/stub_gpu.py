"""`cfbus-gpu` with all that is in it but vLLM itself: a worker's process around a model that is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scripted_model import PlainTemplate

from cfbus.config import Config
from cfbus.daemons import gpu
from cfbus.decoding import DecodePool
from cfbus.engines import opening
from cfbus.engines.base import Post, Read
from cfbus.engines.vllm_engine import VllmEngine
from cfbus.engines.vllm_host import Host
from cfbus.engines.vllm_running import Running
from cfbus.errors import CfbusError


def serve(model: Running, decoders: Callable[[DecodePool], DecodePool] = lambda pool: pool) -> None:
    """Do what `cfbus-gpu` does, with this model; ``decoders`` may put others in place of the pool."""

    def open_stub(
        settings: Config,
        origins: Mapping[str, str],
        read: Read,
        pool: DecodePool,
        post: Post,
        give_up: Callable[[CfbusError], None] | None,
        readers: int,
    ) -> VllmEngine:
        host = Host({"model": settings.vllm.model}, PlainTemplate(), golden=False, load=lambda arguments: model)
        host.start()
        return VllmEngine(host, settings.vllm, "0", read, decoders(pool), post, readers=readers)

    vars(opening)["open_vllm"] = open_stub
    gpu.main()
