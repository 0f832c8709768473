"""What is carved is what was stored, whatever SQLite says; see also ``tests/crash/test_cut_and_flipped.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbus.core.frame import JournalFrame
from cfbus.store.carving import carve
from cfbus.store.journal import PAGE_BYTES, Journal

Make = Callable[..., JournalFrame]


class Opened(Protocol):
    journal: Journal


def texts(size: int) -> str:
    """Nothing that compresses or repeats."""
    return np.random.default_rng(size).integers(97, 122, size, np.uint8).tobytes().decode()


@pytest.mark.parametrize("size", [10, 3000, 4092, 16000, 16200, 16349, 16384, 40_000, 200_000])
def test_frames_of_every_size_are_found(size: int, opened: Opened, simple: Make, tmp_path: Path) -> None:
    frames = {position: simple(position, 2, texts(size)) for position in range(1, 40 if size < 5000 else 8)}
    for frame in frames.values():
        opened.journal.append([frame])
    (path,) = (tmp_path / "store" / "journal").glob("*.sqlite")
    assert carve(path) == frames, "from the log alone"
    opened.journal.roll()
    assert carve(path) == frames, "from the file alone"


def test_the_rest_is_found_when_pages_are_gone(opened: Opened, simple: Make, tmp_path: Path) -> None:
    frames = {position: simple(position, 2, texts(3000)) for position in range(1, 60)}
    opened.journal.append(list(frames.values()))
    closed = opened.journal.roll()
    assert closed is not None
    data = closed.path.read_bytes()
    last = len(data) - PAGE_BYTES
    closed.path.write_bytes(bytes(PAGE_BYTES) + data[PAGE_BYTES:last] + bytes(PAGE_BYTES))
    found = carve(closed.path)
    assert 40 < len(found) < 59
    assert found.items() <= frames.items()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 5))
def test_noise_holds_no_frame(tmp_path_factory: pytest.TempPathFactory, noise: bytes, pages: int) -> None:
    path = tmp_path_factory.mktemp("noise") / "1.sqlite"
    path.write_bytes((b"\x0d" + noise).ljust(PAGE_BYTES, noise[:1] or b"\0") * pages + noise)
    path.with_name("1.sqlite-wal").write_bytes(noise * 200)
    assert carve(path) == {}


def test_a_file_that_is_not_there_holds_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        carve(tmp_path / "none.sqlite")
