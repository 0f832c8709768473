"""A folder full of pictures that were made to do harm, through `cfbus run`: what is bad becomes a dead letter with its
reason, and the neighbours are captioned as if they were alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hostile_pictures as hostile
from PIL import features
from processes.support import Nursery, Run, Seen, until
from processes.tables import failures, make_pictures

import cfbus
from cfbus.images import Limits

NEIGHBOURS = 40
GIB, MIB = 1 << 30, 1 << 20
WORKER_MIB = 768
"""Far above what the worker itself needs, far below the gigabyte and what any bomb unpacks to."""


def bad_ones() -> Iterator[tuple[str, bytes, str]]:
    """Name, content and the reason why it is none."""
    whole = hostile.saved(hostile.colours(), "JPEG")
    yield "bomb-13000.png", hostile.png_bomb(13_000), "too-many-pixels"
    yield "bomb-20000.png", hostile.png_bomb(20_000, colour=0), "too-many-pixels"
    yield "saying-65500.jpg", hostile.jpeg_saying(65_500, 65_500), "too-many-pixels"
    yield "vast-screen.gif", hostile.gif_of(3, screen=(65_535, 65_535)), "too-many-pixels"
    yield "vast.tif", hostile.tiff_of(*hostile.tiff_tags(2**31 - 1, 2**31 - 1)), "too-many-pixels"
    yield "vast.webp", hostile.webp_saying(16_384, 16_384), "too-many-pixels"
    if features.check("avif"):
        yield "vast.avif", hostile.avif_saying(65_535, 65_535), "decode-failed"
    yield "countless.tif", hostile.tiff_of(*hostile.tiff_tags(10, 10, t273=(4, 2**32 - 1, 8))), "decode-failed"
    yield "wrongly-packed.tif", hostile.tiff_of(*hostile.tiff_tags(9000, 9000, t259=(3, 1, 5))), "decode-failed"
    yield "rows-missing.png", hostile.png_of(9999, 9999, hostile.packed_zeros(100_000)), "truncated"
    yield "cut.jpg", whole[: len(whole) * 2 // 3], "truncated"
    yield "nothing.jpg", b"", "empty"
    yield "page.jpg", b"<!DOCTYPE html><html><body>404: no such picture</body></html>", "not-an-image"
    yield "drawing.jpg", hostile.saved(hostile.colours(), "EPS"), "unsupported-format"
    yield "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>', "unsupported-format"
    yield "zeros.png", bytes(100_000), "not-an-image"


def heavy_ones() -> Iterator[tuple[str, bytes]]:
    """Good, but dear: as much as one may be, and much that is not to be unpacked."""
    yield "largest.png", hostile.png_bomb(10_000)
    yield "more-rows-than-said.png", hostile.png_of(100, 100, hostile.packed_zeros(256 * MIB))
    yield "comment.png", hostile.png_with(hostile.text_bomb(256 * MIB))
    yield "profile.png", hostile.png_with(hostile.profile_bomb(256 * MIB))


@dataclass
class Peaks:
    """The largest resident memory of a worker and of its children that decode, as the kernel keeps it."""

    worker: int = 0
    child: int = 0
    limits: set[str] = field(default_factory=set)

    def look(self, nursery: Nursery, run: int) -> None:
        worker = nursery.find("gpu", run)
        if worker is None:
            return
        self.worker = max(self.worker, peak(worker.pid))
        for child in nursery.alive():
            if child.parent == worker.pid and is_decoder(child):
                self.child = max(self.child, peak(child.pid))
                with contextlib.suppress(OSError):
                    allowed = Path(f"/proc/{child.pid}/limits").read_text()
                    self.limits |= set(re.findall(r"Max address space +(\S+)", allowed))


def is_decoder(seen: Seen) -> bool:
    return any("cfbus.decoding" in word for word in seen.command)


def peak(pid: int) -> int:
    """Bytes; 0 of a process that is gone."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


def captions(out: Path) -> dict[str, str]:
    table = cfbus.open(out).arrow(columns=["item_key", "caption"]).to_pylist()
    assert len({row["item_key"] for row in table}) == len(table)
    return {row["item_key"]: row["caption"] for row in table}


def test_hostile_pictures_are_dead_letters_and_harm_no_neighbour(nursery: Nursery, tmp_path: Path) -> None:
    folder, alone, out = tmp_path / "pictures", tmp_path / "alone", tmp_path / "out"
    make_pictures(folder, 0, NEIGHBOURS)
    flags = ("--workers", "1", "--set", "worker.decoders=2")
    Run(nursery, alone, folder, *flags).command.ends(0)
    neighbours = captions(alone)
    assert len(neighbours) == NEIGHBOURS

    reasons = {}
    for name, data, reason in bad_ones():
        (folder / name).write_bytes(data)
        reasons[name] = reason
    with open(folder / "gigabyte.jpg", "wb") as file:
        os.truncate(file.fileno(), GIB)
    reasons["gigabyte.jpg"] = "too-large-file"
    for name, data in (*hostile.good_ones(), *heavy_ones()):
        (folder / name).write_bytes(data)
        assert name not in reasons
        neighbours[name] = ""

    peaks = Peaks()
    run = Run(nursery, out, folder, *flags)

    def has_ended() -> bool:
        peaks.look(nursery, run.command.pid)
        return run.command.process.poll() is not None

    until(lambda: f"it ends; it said: {run.command.said}", has_ended, 300)
    said = run.command.ends(3)

    dead = failures(out)
    assert {str(row["item_key"]): row["reason"] for row in dead} == reasons
    assert len(dead) == len(reasons)
    assert {row["fault"] for row in dead} == {"item"}
    assert all(str(row["detail"]).endswith(".") for row in dead)
    details = {str(row["item_key"]): str(row["detail"]) for row in dead}
    for name, words in (("page.jpg", "web page"), ("drawing.jpg", "PostScript"), ("drawing.png", "SVG")):
        assert words in details[name]
    assert f"{len(reasons)} images could not be captioned" in said

    found = captions(out)
    assert found.keys() == neighbours.keys()
    assert {name for name, text in neighbours.items() if text and found[name] != text} == set()
    assert all(found.values())
    for row in cfbus.open(out).arrow(columns=["item_key", "image_sha256", "image_width", "image_height"]).to_pylist():
        assert row["image_sha256"] == hashlib.sha256((folder / row["item_key"]).read_bytes()).digest(), row
        if row["item_key"] in ("turned.jpg", "largest.png"):
            assert (row["image_width"], row["image_height"]) in {(48, 64), (10_000, 10_000)}, row

    limit = Limits().memory_mib * MIB
    assert peaks.limits <= {str(limit), "unlimited"}  # one that has just begun has not set it yet
    assert str(limit) in peaks.limits
    assert 300 * MIB < peaks.child < limit, peaks  # the largest picture was seen in there
    assert peaks.worker < WORKER_MIB * MIB, peaks
    logs = b"".join(path.read_bytes() for path in (out / "run" / "logs").iterdir())
    assert b"TIFF" not in logs
    assert b"Traceback" not in logs
