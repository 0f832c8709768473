"""From the configuration to the engine that it names."""

from __future__ import annotations

from cfbus.config import Config
from cfbus.decoding import DecodePool
from cfbus.engines.base import Engine, Post, Read
from cfbus.engines.describing import PaletteEngine
from cfbus.engines.scripted import ScriptedEngine
from cfbus.images import Limits


def open_engine(settings: Config, read: Read, post: Post) -> tuple[Engine, DecodePool | None]:
    """The engine, and the decoders that it uses where it needs pictures; to be closed in this order."""
    captions = settings.captions
    if captions.engine == "scripted":
        return ScriptedEngine(post, captions.scripted.speed), None
    limits = Limits(max_pixels=captions.max_pixels, pixel_budget=captions.pixel_budget)
    pool = DecodePool(settings.worker.decoders, limits)
    return PaletteEngine(read, pool, post), pool
