"""What tests of the real vLLM share: the tiny model, and an engine over it."""

from __future__ import annotations

from collections.abc import Iterator

import engine_vllm
import pytest
from engine_rig import Outcomes
from vllm_album import Album, Captioned, Open

from cfbus.config import Config
from cfbus.core.outcome import Outcome
from cfbus.decoding import DecodePool
from cfbus.engines.vllm_arguments import installed
from cfbus.engines.vllm_engine import VllmEngine
from cfbus.engines.vllm_host import Host
from cfbus.images import Limits
from cfbus.spec import spec_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "vllm_real" in item.nodeid and not engine_vllm.THERE:
            item.add_marker(pytest.mark.skip(reason=engine_vllm.WHY))


@pytest.fixture(scope="session")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, Limits()) as made:
        yield made


@pytest.fixture(scope="session")
def host() -> Host:
    return engine_vllm.tiny_host()


@pytest.fixture
def opened(host: Host, pool: DecodePool) -> Iterator[Open]:
    made: list[VllmEngine] = []

    def go(settings: Config, album: Album, outcomes: Outcomes) -> VllmEngine:
        engine = VllmEngine(host, settings.vllm, installed().version, album.read, pool, outcomes.post, keep_host=True)
        made.append(engine)
        engine.use(spec_of(settings.captions, settings.vllm))
        return engine

    yield go
    for engine in made:
        engine.close()


@pytest.fixture
def captioned(opened: Open) -> Captioned:
    """All pictures of an album, by this configuration."""

    def go(settings: Config, album: Album) -> dict[int, Outcome]:
        outcomes = Outcomes()
        engine = opened(settings, album, outcomes)
        engine.submit(album.items(tuple(settings.captions.slots)))
        return outcomes.wait_for(album.count, 240)

    return go
