"""How fast sources list, against the least that there is to do: folders against a bare `os.scandir`, tars against
reading the file; and how soon a run on a large folder begins to lease.

Each source is measured in a process of its own, whose peak memory is then the listing's.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.figures import Listing  # noqa: E402

from cfbus.sources.base import NothingKnown, Source  # noqa: E402
from cfbus.sources.folder import FolderSource  # noqa: E402
from cfbus.sources.tars import TarSource  # noqa: E402

FILES, SAMPLES = 1_000_000, 100_000
GIVE_UP_SECONDS = 300.0
_LOG_TIME = re.compile(r"^(\S+)Z info +(?:broker lease\.granted|writer listing\.ended) ", re.MULTILINE)


def make_files(folder: Path, count: int) -> None:
    """Empty files that are called like pictures, all in one folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        os.close(os.open(folder / f"{number:08d}.jpg", os.O_CREAT | os.O_WRONLY))


def make_tar(path: Path, samples: int) -> None:
    """A tar of samples with an image of 8 KiB and a column each."""
    data = bytes(8192)
    with path.open("wb") as file:
        for number in range(samples):
            for name, size in ((f"{number:08d}.jpg", 8192), (f"{number:08d}.json", 2)):
                info = tarfile.TarInfo(name)
                info.size = size
                file.write(info.tobuf(tarfile.USTAR_FORMAT) + (data if size == 8192 else b"{}".ljust(512, b"\0")))
        file.write(bytes(1024))


def scan(folder: Path) -> None:
    """The least: the names of a folder."""
    with os.scandir(folder) as entries:
        for _ in entries:
            pass


def read(path: Path) -> None:
    """The least: all bytes of a file, in large pieces."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure(kind: str, path: Path) -> Listing:
    """List what is there already; the least is measured before and after, its mean counts."""
    least: Callable[[], None] = (lambda: scan(path)) if kind == "folder" else (lambda: read(path))
    source: Source = FolderSource([path]) if kind == "folder" else TarSource([path])
    bare = timed(least)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu, first, items = time.perf_counter(), time.process_time(), 0.0, 0
    for shard in source.shards(NothingKnown()):
        first = first or time.perf_counter() - began
        items += len(shard.keys)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare = (bare + timed(least)) / 2
    return Listing(
        kind=kind, items=items, seconds=seconds, cpu_seconds=cpu, first_shard_seconds=first, bare_seconds=bare,
        more_mib=(peak - base) / 1024,
    )  # fmt: skip


def run_seconds(folder: Path, out: Path) -> tuple[float, float]:
    """From the start of `cfbus run` on this folder to its first lease, and to the end of the listing."""
    command = [sys.executable, "-m", "cfbus.tools.main", "run", str(folder), "--out", str(out), "--engine", "scripted"]
    began = time.time()
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    found: dict[str, float] = {}
    until = time.monotonic() + GIVE_UP_SECONDS
    while len(found) < 2 and process.poll() is None and time.monotonic() < until:
        for name in {"broker", "writer"} - set(found):
            with suppress(FileNotFoundError):
                match = _LOG_TIME.search((out / "run" / "logs" / f"{name}.log").read_text(errors="replace"))
                if match is not None:
                    found[name] = datetime.fromisoformat(match[1] + "+00:00").timestamp() - began
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(GIVE_UP_SECONDS)
    return found["broker"], found["writer"]


def measure_all(work: Path, child: Callable[..., str]) -> list[Listing]:
    """A folder of a million files, with a run on it, and a tar of a hundred thousand samples."""
    make_files(work / "files", FILES)
    folder = Listing.model_validate_json(child("listing", "folder", work / "files"))
    lease, ended = run_seconds(work / "files", work / "run")
    make_tar(work / "samples.tar", SAMPLES)
    tar = Listing.model_validate_json(child("listing", "tar", work / "samples.tar"))
    return [folder.model_copy(update={"run_first_lease_seconds": lease, "run_listed_seconds": ended}), tar]


if __name__ == "__main__":
    sys.stdout.write(measure(sys.argv[1], Path(sys.argv[2])).model_dump_json() + "\n")
