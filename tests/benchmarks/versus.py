"""The same images through cfbus and through CaptionFlow, on the same machine, one after the other, again and again.

In both a stub stands for vLLM (`stub_model`). First at full speed: what there is around a model. Then with a model that
takes 20 ms for a batch, while processes are killed: what is lost, doubled, never done, and whether a person was needed.
All rows are counted by reading files. See `versus_cases` for what is run.
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
from pathlib import Path
from typing import TypeAlias

from benchmarks.machine import machine
from benchmarks.processes import machine_busy
from benchmarks.running import BenchError
from benchmarks.versus_captionflow import NAME as THEIRS
from benchmarks.versus_captionflow import VERSION, CaptionFlow, environment, index, python_version
from benchmarks.versus_cases import (
    BOTH,
    INTERRUPT,
    INTERRUPT_RUN,
    NOTHING,
    TERM,
    WORKER,
    Planned,
    minutes_left,
    one_round,
)
from benchmarks.versus_cfbus import Cfbus
from benchmarks.versus_figures import Case, Kill, Pace, Versus
from benchmarks.versus_setup import Family, Generated, Setup, Start
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TARS, SIDE_PIXELS = 4, 64
CHARS, BATCH = 300, 8
BATCH_SECONDS = 0.02
POLL_SECONDS, LOOK_SECONDS = 0.05, 0.25
READY_SECONDS, RUN_SECONDS = 60.0, 300.0
KILL_SHARE, DOWN_SECONDS = 0.4, 1.0
SIGNALS = {TERM: signal.SIGTERM, INTERRUPT: signal.SIGINT, INTERRUPT_RUN: signal.SIGINT}
PATIENCE_SECONDS = 45.0
"""After a kill: so long without a row or a caption is taken for a standstill. It is several times what either side
waits before it tries again."""
CHECKPOINT_SECONDS = 10
"""CaptionFlow's interval between flushes while processes are killed, instead of 60, so that less is at stake there."""

Say: TypeAlias = Callable[[str], None]


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
    def setup(self, run: Planned, batch_seconds: float, checkpoint: int = 60) -> Iterator[Setup]:
        """A side in a new folder, which is gone afterwards."""
        case = run.case
        self._number += 1
        folder = self._work / f"run-{self._number}"
        stub = {
            "STUB_CHARS": str(CHARS), "STUB_BATCH_SECONDS": str(batch_seconds), "STUB_DECODES": str(int(case.decoded)),
            "STUB_LOG": str(self._work / f"generated-{self._number}"),
        }  # fmt: skip
        data = self.data(case)
        made: Setup = (
            Cfbus(data, folder, case, stub, one_command=run.what == INTERRUPT_RUN)
            if run.ours
            else CaptionFlow(self._environment, data, folder, case, stub, checkpoint)
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


def pace(bench: Comparison, run: Planned, number: int) -> Pace:
    """One run, in the round of this number."""
    case = run.case
    with bench.setup(run, 0.0) as setup:
        side, family, generated = setup.side, Family(setup), bench.generated()
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
            side=side, case=case, round=number, images_per_second=case.images / (last_row - leased),
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


def kill(bench: Comparison, run: Planned, number: int) -> Kill:
    """One run in which processes are ended in the middle and started again a second later, as a supervisor does."""
    case = run.case
    with bench.setup(run, BATCH_SECONDS, CHECKPOINT_SECONDS) as setup:
        family, generated = Family(setup), bench.generated()
        began = time.monotonic()
        try:
            _start(setup, family)
            await_true(f"{setup.side} generates", lambda: generated.look() >= KILL_SHARE * case.images, RUN_SECONDS)
            victims = _victims(setup, run.what)
            family.send(victims, SIGNALS.get(run.what, signal.SIGKILL))
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
        return _outcome(setup, run, number, generated.look(), seconds, hand, missing)


def _start(setup: Setup, family: Family) -> None:
    family.start(setup.servers)
    await_true(f"{setup.side}'s server listens", setup.ready, READY_SECONDS)
    family.start(setup.workers)


def _victims(setup: Setup, what: str) -> dict[str, Start]:
    first = dict(list(setup.workers.items())[:1])
    chosen = {NOTHING: {}, WORKER: first, BOTH: {**setup.servers, **first}, TERM: {**setup.servers, **setup.workers}}
    return dict(chosen.get(what, setup.servers))


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
    setup: Setup, run: Planned, number: int, generated: int, seconds: float, hand: str, missing: int | None
) -> Kill:
    case = run.case
    counts = Counter(setup.keys())
    rows = counts.total()
    left = case.images - len(counts)
    return Kill(
        side=setup.side, what=run.what, source=case.source, round=number, images=case.images, generated=generated,
        rows=rows, doubled=rows - len(counts), missing=left if missing is None else missing,
        again=max(0, generated - rows), seconds=seconds, hand=hand, missing_after_hand=left if hand else None,
    )  # fmt: skip


# ---------------------------------------------------------------------- all of it


def measure(
    out: Path,
    work: Path,
    rounds: int,
    chosen: Sequence[str],
    keep: Callable[[Versus], None],
    say: Say,
) -> Versus:
    """All that is chosen, side by side in each round. What there is so far is kept after each run; Ctrl-C and SIGTERM
    end it early, and leave what was measured until then."""
    plan = [(number, run) for number in range(1, rounds + 1) for run in one_round(chosen)]
    report = Versus(
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", machine=machine(ROOT, out), load=os.getloadavg()[1],
        version=VERSION, python="", engine_batch=BATCH, caption_chars=CHARS, chosen=chosen, planned=len(plan),
    )  # fmt: skip
    try:
        bench = Comparison(work, out)
    except BenchError as error:
        return report.model_copy(update={"not_run": [f"Nothing was compared: {error}."], "ended": len(plan)})
    report = report.model_copy(update={"python": bench.python})
    runs = [run for _, run in plan]
    began = time.monotonic()
    with _stoppable():
        try:
            for at, (number, run) in enumerate(plan, 1):
                report = _with(report, bench, run, number, say)
                keep(report)
                left = minutes_left(runs[:at], runs[at:], time.monotonic() - began)
                say(f"    run {at} of {len(plan)}, round {number} of {rounds}; about {left:.0f} minutes are left")
        except KeyboardInterrupt:
            say(f"Stopped: {report.ended} of {report.planned} runs were measured.")
    if not report.paces and not report.kills:
        raise BenchError(f"nothing was compared: {' '.join(report.not_run)}")
    return report


def _with(report: Versus, bench: Comparison, run: Planned, number: int, say: Say) -> Versus:
    """What is known after one more run."""
    more: dict[str, object] = {"ended": report.ended + 1}
    side = Cfbus.side if run.ours else THEIRS
    try:
        if run.what:
            killed = kill(bench, run, number)
            more["kills"] = [*report.kills, killed]
            say(f"{side}, {run.name}: {killed.missing} never done, {killed.doubled} doubled, {killed.again} lost")
        else:
            paced = pace(bench, run, number)
            more["paces"] = [*report.paces, paced]
            say(f"{side}, {run.name}: {paced.images_per_second:,.0f} images a second")
    except BenchError as error:
        more["not_run"] = [*report.not_run, f"{run.name}, round {number}: {error}."]
        say(f"NOT MEASURED: {side}, {run.name}: {error}")
    return report.model_copy(update=more)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does. Both are heeded, even by what was started in the background: processes that are
    started here inherit it when a signal is ignored, and would pass over the Ctrl-C that they are sent."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
