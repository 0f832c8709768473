"""The same images through cfbus and through CaptionFlow, on the same machine, one after the other, again and again.

In both a stub stands for vLLM (`stub_model`). First at full speed: what there is around a model. Then with a model that
takes 20 ms for a batch, while processes are killed: what is lost, doubled, never done, and whether a person was needed.
All rows are counted by reading files.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.processes import machine_busy
from benchmarks.running import BenchError
from benchmarks.versus_captionflow import NAME as THEIRS
from benchmarks.versus_captionflow import VERSION, CaptionFlow, environment, index, python_version
from benchmarks.versus_cfbus import Cfbus
from benchmarks.versus_figures import Case, Kill, Pace, Source, Versus
from benchmarks.versus_setup import Family, Generated, Setup, Start
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
IMAGES, TARS, SIDE_PIXELS = 2000, 4, 64
CHARS, BATCH = 300, 8
BATCH_SECONDS = 0.02
POLL_SECONDS, LOOK_SECONDS = 0.05, 0.25
READY_SECONDS, RUN_SECONDS = 60.0, 300.0
KILL_SHARE, DOWN_SECONDS = 0.4, 1.0
PATIENCE_SECONDS = 45.0
"""After a kill: so long without a row or a caption is taken for a standstill. It is several times what either side
waits before it tries again."""
CHECKPOINT_SECONDS = 10
"""CaptionFlow's interval between flushes while processes are killed, instead of 60, so that less is at stake there."""
NOTHING, WORKER, SERVER, BOTH, TERM = "nothing", "a worker, -9", "the server, -9", "both, -9", "all, SIGTERM"
KILLS: tuple[tuple[Source, str], ...] = (
    *(("tars", what) for what in (NOTHING, WORKER, SERVER, BOTH, TERM)),
    *(("folder", what) for what in (SERVER, TERM)),
)  # fmt: skip


def cases() -> list[Case]:
    """All cases of full speed; those without TLS are for the other side alone."""
    sources: tuple[Source, ...] = ("tars", "folder")
    return [
        *(
            Case(source=source, workers=workers, prompts=prompts)
            for source in sources
            for workers, prompts in ((1, 1), (2, 1), (2, 3))
        ),
        Case(source="tars", workers=2, prompts=1, encrypted=False),
        Case(source="folder", workers=2, prompts=1, decoded=False),
        Case(source="tars", workers=2, prompts=1, images=IMAGES - 10),
    ]  # fmt: skip


def make_images(folder: Path, count: int) -> None:
    """The same small JPEGs, in a folder and in tars."""
    (folder / "folder").mkdir(parents=True)
    (folder / "tars").mkdir()
    dice = random.Random(0)
    for number in range(count):
        noise = Image.effect_noise((SIDE_PIXELS, SIDE_PIXELS), dice.randint(20, 90)).convert("RGB")
        noise.save(folder / "folder" / f"{number:05d}.jpg", quality=85)
    files = sorted((folder / "folder").iterdir())
    share = -(-count // TARS)
    for number in range(TARS):
        with tarfile.open(folder / "tars" / f"shard-{number:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for path in files[number * share : (number + 1) * share]:
                tar.add(path, path.name)


class Comparison:
    """Where the images are, and both sides' ways to be set up."""

    def __init__(self, work: Path, out: Path) -> None:
        self._work = work
        self._environment = environment(out)
        self.python = python_version(self._environment)
        self._number = 0

    def data(self, case: Case) -> Path:
        """The images of a case, made at first use."""
        folder = self._work / f"images-{case.images}"
        if not folder.exists():
            make_images(folder, case.images)
            index(self._environment, folder / "tars")
        return folder / case.source

    @contextmanager
    def setup(self, side: str, case: Case, batch_seconds: float, checkpoint: int = 60) -> Iterator[Setup]:
        """A side in a new folder, which is gone afterwards."""
        self._number += 1
        folder = self._work / f"run-{self._number}"
        stub = {
            "STUB_CHARS": str(CHARS), "STUB_BATCH_SECONDS": str(batch_seconds), "STUB_DECODES": str(int(case.decoded)),
            "STUB_LOG": str(self._work / f"generated-{self._number}"),
        }  # fmt: skip
        data = self.data(case)
        made: Setup = (
            CaptionFlow(self._environment, data, folder, case, stub, checkpoint)
            if side == THEIRS
            else Cfbus(data, folder, case, stub)
        )
        try:
            yield made
        finally:
            made.close()
            shutil.rmtree(folder, ignore_errors=True)

    def generated(self) -> Generated:
        """What the stubs of the newest setup say."""
        return Generated(self._work / f"generated-{self._number}")


def await_true(what: str, look: Callable[[], object], seconds: float) -> None:
    """Wait until it is so."""
    until = time.monotonic() + seconds
    while not look():
        if time.monotonic() > until:
            raise BenchError(f"not within {seconds:.0f} s: {what}")
        time.sleep(POLL_SECONDS)


# ---------------------------------------------------------------------- full speed


def pace(bench: Comparison, side: str, case: Case) -> Pace:
    """One run."""
    with bench.setup(side, case, 0.0) as setup:
        family, generated = Family(setup), bench.generated()
        began = time.time()
        try:
            family.start(setup.servers)
            await_true(f"{side}'s server listens", setup.ready, READY_SECONDS)
            family.start(setup.workers)
            await_true(f"{side} grants a lease", setup.leased_at, READY_SECONDS)
            used, busy = family.look(), machine_busy()
            first_row, last_row = _until_done(setup, family, case.images)
            busy = machine_busy() - busy
            spent = {kind: seconds - used.get(kind, 0.0) for kind, seconds in family.cpu.items()}
            family.stop()
        finally:
            family.kill()
        captions = generated.look()
        _check(setup, case, captions)
        leased = setup.leased_at()
        assert leased is not None
        last_generated = generated.when(captions)
        half = generated.when(case.images * case.prompts // 2)
        return Pace(
            side=side, case=case, images_per_second=case.images / (last_row - leased),
            half_per_second=case.images / 2 / (half - leased),
            cpu_ms={kind: 1000 * seconds / case.images for kind, seconds in spent.items()},
            peak_mib={kind: size / (1 << 20) for kind, size in family.peak.items()},
            first_lease_seconds=leased - began, first_generated_seconds=generated.when(1) - began,
            first_row_seconds=first_row - began, last_to_disk_seconds=max(0.0, last_row - last_generated),
            bytes_per_caption=setup.size() / (case.images * case.prompts),
            cores_of_others=max(0.0, busy - sum(spent.values())) / (last_row - leased),
        )  # fmt: skip


def _until_done(setup: Setup, family: Family, images: int) -> tuple[float, float]:
    """When the first row was seen on the disk, and when the last."""
    first, looked = 0.0, 0.0
    until = time.time() + RUN_SECONDS
    while (rows := setup.rows()) < images:
        now = time.time()
        if rows and not first:
            first = now
        if now - looked > LOOK_SECONDS:
            looked = now
            family.look()
        if now > until or family.ended():
            raise BenchError(f"{setup.side} stopped at {rows} of {images} images ({family.ended()} ended)")
        time.sleep(POLL_SECONDS)
    last = time.time()
    family.look()
    return first or last, last


def _check(setup: Setup, case: Case, captions: int) -> None:
    """Every image once; otherwise the figures mean nothing."""
    keys = setup.keys()
    if len(keys) != case.images or len(set(keys)) != case.images or captions < case.images * case.prompts:
        raise BenchError(
            f"{setup.side} has {len(keys)} rows of {len(set(keys))} images, {captions} captions were generated,"
            f" and there are {case.images} images with {case.prompts} prompts"
        )


# ---------------------------------------------------------------------- kills


def kill(bench: Comparison, side: str, source: Source, what: str) -> Kill:
    """One run in which processes are ended in the middle and started again a second later, as a supervisor does."""
    case = Case(source=source, workers=2, prompts=1)
    with bench.setup(side, case, BATCH_SECONDS, CHECKPOINT_SECONDS) as setup:
        family, generated = Family(setup), bench.generated()
        began = time.monotonic()
        try:
            _start(setup, family)
            await_true(f"{side} generates", lambda: generated.look() >= KILL_SHARE * case.images, RUN_SECONDS)
            victims = _victims(setup, what)
            family.send(victims, signal.SIGTERM if "SIGTERM" in what else signal.SIGKILL)
            time.sleep(DOWN_SECONDS)
            family.start(victims)
            done = _settle(setup, family, generated, case.images)
            seconds = time.monotonic() - began
            hand, missing = "", None if done else case.images - setup.rows()
            if not done:
                family.stop()
                hand = setup.mend()
                _start(setup, family)
                _settle(setup, family, generated, case.images)
            family.stop()
        finally:
            family.kill()
        return _outcome(setup, what, case, generated.look(), seconds, hand, missing)


def _start(setup: Setup, family: Family) -> None:
    family.start(setup.servers)
    await_true(f"{setup.side}'s server listens", setup.ready, READY_SECONDS)
    family.start(setup.workers)


def _victims(setup: Setup, what: str) -> dict[str, Start]:
    first = dict(list(setup.workers.items())[:1])
    chosen = {NOTHING: {}, WORKER: first, SERVER: setup.servers, BOTH: {**setup.servers, **first}}
    return dict(chosen.get(what, {**setup.servers, **setup.workers}))


def _settle(setup: Setup, family: Family, generated: Generated, images: int) -> bool:
    """Wait for all images; False when nothing comes any more. Whoever ends by itself is started again."""
    seen, moved = (-1, -1), time.monotonic()
    until = time.monotonic() + RUN_SECONDS
    while (now := (setup.rows(), generated.look()))[0] < images:
        if now != seen:
            seen, moved = now, time.monotonic()
        if time.monotonic() - moved > PATIENCE_SECONDS or time.monotonic() > until:
            return False
        again = {role: start for role, start in {**setup.servers, **setup.workers}.items() if role in family.ended()}
        family.start(again)
        time.sleep(POLL_SECONDS if not again else DOWN_SECONDS)
    return True


def _outcome(
    setup: Setup, what: str, case: Case, generated: int, seconds: float, hand: str, missing: int | None
) -> Kill:
    counts = Counter(setup.keys())
    rows = counts.total()
    left = case.images - len(counts)
    return Kill(
        side=setup.side, what=what, source=case.source, images=case.images, generated=generated, rows=rows,
        doubled=rows - len(counts), missing=left if missing is None else missing,
        again=max(0, generated - rows), seconds=seconds, hand=hand, missing_after_hand=left if hand else None,
    )  # fmt: skip


# ---------------------------------------------------------------------- all of it


def measure(out: Path, work: Path, rounds: int, say: Callable[[str], None]) -> Versus:
    """All cases, side by side in each round, then the kills."""
    report = Versus(
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", machine=machine(ROOT, out), load=os.getloadavg()[1],
        version=VERSION, python="", engine_batch=BATCH, caption_chars=CHARS,
    )  # fmt: skip
    try:
        bench = Comparison(work, out)
    except BenchError as error:
        return report.model_copy(update={"not_run": [f"Nothing was compared: {error}."]})
    paces: list[Pace] = []
    kills: list[Kill] = []
    missed: list[str] = []
    for _ in range(rounds):
        for case in cases():
            for side in _sides(case):
                _try(missed, say, partial(_pace, bench, side, case, paces, say))
    for source, what in KILLS:
        for side in (Cfbus.side, THEIRS):
            _try(missed, say, partial(_kill, bench, side, source, what, kills, say))
    if not paces:
        raise BenchError(f"nothing was compared: {' '.join(missed)}")
    return report.model_copy(update={"python": bench.python, "paces": paces, "kills": kills, "not_run": missed})


def _pace(bench: Comparison, side: str, case: Case, paces: list[Pace], say: Callable[[str], None]) -> None:
    paces.append(pace(bench, side, case))
    say(f"{side}, {case}: {paces[-1].images_per_second:,.0f} images a second")


def _kill(
    bench: Comparison, side: str, source: Source, what: str, kills: list[Kill], say: Callable[[str], None]
) -> None:
    kills.append(kill(bench, side, source, what))
    say(f"{kills[-1]}")


def _sides(case: Case) -> Sequence[str]:
    return (Cfbus.side, THEIRS) if case.encrypted else (THEIRS,)


def _try(missed: list[str], say: Callable[[str], None], act: Callable[[], None]) -> None:
    try:
        act()
    except BenchError as error:
        missed.append(f"{error}.")
        say(f"NOT MEASURED: {error}")
