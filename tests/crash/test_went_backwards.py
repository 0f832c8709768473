"""A store that ends before what was acknowledged is noticed by the broker, end to end, and one may go on without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes.support import Nursery, Run
from processes.tables import exact_scripted

from cfbus.errors import UnsafeError

OURS = ("listing", "journal", "captions", "failures", "staging", "manifest.sqlite", "store.json")


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


def run(nursery: Nursery, out: Path, items: int, *flags: str) -> Run:
    settings = ["--set", "dataset.source=scripted", "--set", f"dataset.items={items}"]
    return Run(nursery, out, "--engine", "scripted", "--workers", "1", *settings, *flags)


def test_an_older_store_is_noticed(nursery: Nursery, tmp_path: Path) -> None:
    out, backup = tmp_path / "out", tmp_path / "backup"
    run(nursery, out, 100).command.ends(0)
    shutil.copytree(out, backup)
    run(nursery, out, 300).command.ends(0)
    exact_scripted(out, 300, ["caption"])
    for name in OURS:
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
        (shutil.copytree if (backup / name).is_dir() else shutil.copy)(backup / name, out / name)
    said = run(nursery, out, 300).command.ends(UnsafeError.exit_code)
    assert "captions that were acknowledged are gone" in said
    assert "--accept-loss" in said
    run(nursery, out, 300, "--accept-loss").command.ends(0)
    exact_scripted(out, 300, ["caption"])
    run(nursery, out, 400).command.ends(0)
