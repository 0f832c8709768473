"""One filled store for all tests that only look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gallery.rig import Shelf, fill, shelf


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with shelf(tmp_path_factory.mktemp("shelf")) as made:
        fill(made)
        yield made


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Shelf]:
    with shelf(tmp_path) as made:
        yield made
