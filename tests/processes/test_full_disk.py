"""No room on the disk: a sentence at the beginning; in mid-run it waits, goes on by itself, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes.asking import needs, told_under
from processes.support import Nursery, Run
from processes.tables import exact_scripted, make_pictures

LEASE_SECONDS = 10


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, which can be filled up."""

    path: Path

    def fill(self) -> None:
        """Take all the room, as somebody else's file."""
        with suppress(OSError), open(self.path / "ballast", "wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def take(self, size: int) -> None:
        """Take so much of it."""
        (self.path / "ballast").write_bytes(bytes(size))

    def free(self) -> None:
        """Give the room back."""
        (self.path / "ballast").unlink()


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    """Of as many MiB as the test asks for."""
    place = tmp_path / "small"
    place.mkdir()
    size = f"size={request.param}m"
    problem = "mounting a small disk needs root"
    if os.geteuid() == 0:
        command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]
        problem = subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()
    if problem:
        needs(problem)
    yield SmallDisk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def scripted(items: int, length: int, *more: str) -> list[str]:
    """Arguments for a run without pictures."""
    settings = ["dataset.source=scripted", f"dataset.items={items}", f"captions.scripted.length={length}", *more]
    return ["--engine", "scripted", "--workers", "1", *(word for each in settings for word in ("--set", each))]


@pytest.mark.parametrize("small_disk", [8], indirect=True)
def test_too_little_room_to_begin(small_disk: SmallDisk, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    make_pictures(pictures, 0, 1)
    said = told_under((), 75, "cfbus", "run", pictures, "--out", small_disk.path / "out")
    assert "MiB left on the disk" in said
    assert "Make room (64 MiB at least) and run the same command again" in said
    small_disk.fill()
    again = told_under((), 75, "cfbus", "run", pictures, "--out", small_disk.path / "new")
    assert "no room on the disk" in again or "MiB left" in again


@pytest.mark.parametrize("small_disk", [96], indirect=True)
def test_no_room_in_mid_run_waits_and_goes_on_by_itself(small_disk: SmallDisk, nursery: Nursery) -> None:
    """Journal, manifest, ledger, spool and logs all lie on the disk, and it is full for longer than a lease lasts."""
    out, items = small_disk.path / "out", 8000
    settings = ("captions.scripted.rate=400", "broker.chunk_size=100", f"broker.lease_seconds={LEASE_SECONDS}")
    run = Run(nursery, out, *scripted(items, 300, *settings))
    with run.follow() as watch:
        watch.until("some are done", lambda status: status.done > 1000)
        small_disk.fill()
        full = watch.until("it says so", lambda status: status.why == "writer-disk-full")
        run.command.says("THE DISK IS FULL: make room, then it goes on by itself")
        time.sleep(LEASE_SECONDS + 2.0)  # to see that nothing is done or granted, and nobody gives up
        still = watch.fresh()
        assert still.done == full.done < items
        assert still.leased > 0
        assert (still.leases_granted, still.leases_ended) == (full.leases_granted, full.leases_ended)
        small_disk.free()
        watch.until("it goes on", lambda status: status.done > full.done)
    said = run.command.ends(0)
    assert f"{items:,} captions written" in said
    assert "starting it again" not in said
    exact_scripted(out, items, ["caption"])


@pytest.mark.parametrize("small_disk", [140], indirect=True)
def test_no_room_to_seal_waits_and_goes_on_by_itself(small_disk: SmallDisk, nursery: Nursery, tmp_path: Path) -> None:
    """There is room for the journal once, and not for the copy that closes it."""
    out, items = small_disk.path / "out", 42_000
    small_disk.take(72 << 20)
    # What a slow writer has not acknowledged yet lies elsewhere: how much that is, nobody knows.
    run = Run(nursery, out, *scripted(items, 1000, f"worker.spool_dir={tmp_path / 'spool'}"))
    run.command.says(f"{items:,} of {items:,} images done, THE DISK IS FULL", 240.0)
    small_disk.free()
    assert f"{items:,} captions written" in run.command.ends(0)
    assert not list((out / "journal").glob("*.sqlite*"))
    exact_scripted(out, items, ["caption"])
