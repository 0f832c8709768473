"""From the configuration to the engine that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cfbus.config import Config
from cfbus.decoding import DecodePool
from cfbus.engines.base import Engine, Post, Read
from cfbus.engines.describing import PaletteEngine
from cfbus.engines.scripted import ScriptedEngine
from cfbus.engines.vllm_arguments import checked, installed
from cfbus.engines.vllm_opening import open_vllm
from cfbus.errors import CfbusError
from cfbus.images import Limits
from cfbus.sources.base import DISK_READERS

_NOWHERE: Mapping[str, str] = {}


def open_engine(
    settings: Config,
    read: Read,
    post: Post,
    origins: Mapping[str, str] = _NOWHERE,
    give_up: Callable[[CfbusError], None] | None = None,
    readers: int = DISK_READERS,
) -> tuple[Engine, DecodePool | None]:
    """The engine, and the decoders that it uses where it needs pictures; to be closed in this order.

    ``readers``: how many items are read at once (`Source.readers`).
    With vLLM it takes as long as loading the model; ``origins`` says by whom each key was given, for its errors, and
    ``give_up`` is called, from any thread, when the engine has died and cannot be brought back.
    """
    captions = settings.captions
    if captions.engine == "scripted":
        return ScriptedEngine(post, captions.scripted.speed), None
    limits = Limits(max_pixels=captions.max_pixels, pixel_budget=captions.pixel_budget)
    pool = DecodePool(settings.worker.decoders, limits)
    if captions.engine == "vllm":
        return open_vllm(settings, origins, read, pool, post, give_up, readers), pool
    return PaletteEngine(read, pool, post, readers=readers), pool


def check_engine(settings: Config, origins: Mapping[str, str] = _NOWHERE) -> None:
    """Raises ConfigError for what can be known to be wrong before anything is loaded."""
    if settings.captions.engine == "vllm":
        checked(settings.vllm, installed(), origins, lambda sentence: None)
