"""One bus for all cases of a process: an attack that leaves something behind is found by the next one too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from abuse.rig import Bus
from processes.support import Nursery

FEW_FILES = 512
"""That many descriptors, of which the broker keeps some for itself."""
HASTY_SECONDS = 5


def _bus(factory: pytest.TempPathFactory, *settings: str, prefix: tuple[str, ...] = ()) -> Iterator[Bus]:
    folder = factory.mktemp("abuse")
    (folder / "said").mkdir()
    nursery = Nursery(folder / "said", prefix=prefix)
    made = Bus(nursery, folder, *settings)
    yield made
    made.close()
    nursery.close()


@pytest.fixture(scope="session")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus with the limits that it has by default."""
    yield from _bus(tmp_path_factory)


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus whose leases soon end; too soon for those who only stand still for a moment."""
    yield from _bus(tmp_path_factory, f"broker.lease_seconds={HASTY_SECONDS}")


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus whose broker may open few files."""
    yield from _bus(tmp_path_factory, prefix=("prlimit", f"--nofile={FEW_FILES}:{FEW_FILES}"))


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus with limits that are soon passed."""
    limits = {
        "connections": 4,
        "handshakes_per_minute": 30,
        "leases": 2,
        "messages_per_second": 50,
        "mib_per_second": 1,
    }
    yield from _bus(tmp_path_factory, *(f"broker.limits.{name}={value}" for name, value in limits.items()))
