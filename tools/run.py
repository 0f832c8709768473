"""`cfbus run`: one command captions folders of images. Starts the daemons as children, follows, drains, seals.

What is decided about captions is decided by the daemons; this only starts them, shows how far they are and ends them in
the right order.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console

from cfbus import config, logs
from cfbus.bus.messages import Role
from cfbus.config_captions import ENGINES
from cfbus.core.snapshot import Status
from cfbus.errors import EXIT_DEAD_LETTERS, EXIT_DONE, EXIT_INTERRUPTED, CfbusError, DiskFullError, UsageError
from cfbus.runtime import last_frame
from cfbus.tools import keyring, local, report
from cfbus.tools.family import Family
from cfbus.tools.following import Follower
from cfbus.tools.progress import Progress
from cfbus.tools.screen import screen

WAIT_SECONDS = 60.0
STATUS_SECONDS = 0.5
STOP_SECONDS = 60.0
MIN_FREE_BYTES = 64 << 20
FULL_BYTES = 1 << 20


@dataclass(eq=False)
class _Interrupts:
    """Ctrl-C and SIGTERM, counted: once drains, twice hands everything back at once."""

    count: int = 0
    before: dict[int, object] = field(default_factory=dict)

    def __enter__(self) -> _Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._asked)
        return self

    def _asked(self, _signal: int, _frame: object) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class Run:
    """One run on one machine."""

    def __init__(
        self, settings: config.Config, workers: int, console: Console, lock_fd: int, *, accept_loss: bool, feeder: bool
    ) -> None:
        self._settings = settings
        self._feeders = ["feeder"] if feeder else []
        self._console = console
        self._accept_loss = accept_loss
        self._out = settings.storage.data_dir
        self._gpus = [f"gpu-{number}" for number in range(workers)]
        roles = {"writer": Role.WRITER, "admin": Role.ADMIN} | dict.fromkeys(self._gpus, Role.WORKER)
        roles |= dict.fromkeys(self._feeders, Role.FEEDER)
        self._ring = keyring.prepare(self._out / "keys", self._out / "run" / "registry.sqlite", roles)
        self._config_path = local.remember(settings, self._out)
        log_folder = self._out / "run" / "logs"
        log_folder.mkdir(parents=True, exist_ok=True)
        self._family = Family(lock_fd, log_folder)
        self._last: Status | None = None

    def go(self) -> int:
        """Start, follow until everything is captioned and sealed, stop. Returns the exit code."""
        progress = Progress(self._console, self._settings.dataset.name)
        try:
            with _Interrupts() as interrupts, progress:
                follower = self._start()
                try:
                    finished = self._follow(follower, progress, interrupts)
                finally:
                    follower.close()
                self._stop(interrupts, finished=finished)
        finally:
            self._family.close()
        if not finished:
            self._console.print("Stopped. What was captioned is kept; the same command goes on from here.")
            return EXIT_INTERRUPTED
        return EXIT_DEAD_LETTERS if self._last and self._last.dead_letters else EXIT_DONE

    def _start(self) -> Follower:
        base = ["--config", str(self._config_path)]
        accept = ["--accept-loss"] if self._accept_loss else []
        broker = self._family.start(
            "broker",
            "cfbus.daemons.broker",
            [*base, *accept, *self._delivery(), "--host", "127.0.0.1", "--port", "0", "--stats-port", "0"],
        )
        facts = self._family.await_ready(broker)
        # Should the broker have to be started again, the others will look for it where it was.
        broker.arguments = [
            *base, *self._delivery(), "--host", "127.0.0.1", "--port", str(facts["port"]),
            "--stats-port", str(facts["stats_port"]),
        ]  # fmt: skip
        server, line = f"tcp://127.0.0.1:{facts['port']}", str(facts["server_key"])
        writer = self._family.start(
            "writer", "cfbus.daemons.writer", [*base, "--server", server, "--set", f"writer.server_key={line}"]
        )
        for name in self._feeders:
            arguments = [*base, "--server", server, "--host", "127.0.0.1", "--port", "0"]
            self._family.start(name, "cfbus.daemons.feeder", [*arguments, "--set", f"feeder.server_key={line}"])
        denied = ["--set", "dataset.paths=[]"] if self._feeders else []  # the images come from the feeder alone
        for number, name in enumerate(self._gpus):
            self._family.start(
                name,
                "cfbus.daemons.gpu",
                [
                    *base, *denied, "--server", server, "--gpu-id", str(number),
                    "--set", f"worker.server_key={line}", "--set", f"worker.key_file={self._ring.path(name)}",
                    "--set", f"worker.decoders={self._decoders()}",
                ],
            )  # fmt: skip
        self._family.await_ready(writer)
        return Follower(self._ring.path("admin"), line, f"tcp://127.0.0.1:{facts['stats_port']}")

    def _delivery(self) -> list[str]:
        return ["--set", "dataset.delivery=feeder"] if self._feeders else []

    def _decoders(self) -> int:
        """The cores are shared by all workers here."""
        return max(1, self._settings.worker.decoders // len(self._gpus))

    def _follow(self, follower: Follower, progress: Progress, interrupts: _Interrupts) -> bool:
        while not interrupts.count:
            for news in self._family.look_after():
                progress.say(news)
            status = follower.next(STATUS_SECONDS)
            if status is None:
                continue
            self._last = status
            progress.show(status)
            if status.problem:
                raise UsageError(status.problem, f"The logs are in {self._out / 'run' / 'logs'}.")
            if status.finished and status.sealed:
                return True
        return False

    def _stop(self, interrupts: _Interrupts, *, finished: bool) -> None:
        """Workers first, so that what they hold is written; then the writer, which seals; then the broker."""
        if not finished:
            self._console.print("Draining … (again: stop at once)")
        for names in (self._gpus, self._feeders, ["writer"], ["broker"]):
            self._end(names, interrupts)

    def _end(self, names: Sequence[str], interrupts: _Interrupts) -> None:
        self._family.terminate(names)
        hurried = False
        deadline = time.monotonic() + STOP_SECONDS
        while not self._family.await_end(names, 0.2) and time.monotonic() < deadline:
            if interrupts.count > 1 and not hurried:
                hurried = True
                self._family.terminate(names)
        self._family.forget(names)


def caption(
    wanted: local.Wanted,
    workers: int | None,
    console: Console,
    environ: Mapping[str, str],
    wait: float = WAIT_SECONDS,
) -> int:
    """Do what `cfbus run` does; the exit code says how it went. ``wait``: seconds for another run on this folder."""
    settings = local.configure(wanted, environ)
    before = local.standing(settings)
    if before is not None and before.complete:
        return nothing_to_do(settings, console, before)
    lock, waited = local.lock_run(wanted.out, wait, console.print)
    try:
        if waited:
            before = local.standing(settings)
            if before is not None and before.complete:
                return nothing_to_do(settings, console, before)
        return caption_rest(
            settings, before, workers or default_workers(settings), console, lock,
            accept_loss=wanted.accept_loss, feeder=wanted.feeder,
        )  # fmt: skip
    finally:
        os.close(lock)


def nothing_to_do(settings: config.Config, console: Console, before: local.Standing) -> int:
    """Say so."""
    dataset = settings.dataset.name
    out, left_out = settings.storage.data_dir, before.left_out
    return report.show(report.Report(out, dataset, before.items, before.dead_letters, left_out=left_out), console)


def caption_rest(
    settings: config.Config,
    before: local.Standing | None,
    workers: int,
    console: Console,
    lock: int,
    *,
    accept_loss: bool,
    feeder: bool = False,
) -> int:
    """Caption what is not captioned yet, under the folder's lock."""
    began = time.monotonic()
    out = settings.storage.data_dir
    free = shutil.disk_usage(out).free
    if free < MIN_FREE_BYTES:
        raise DiskFullError(
            f"There are only {free >> 20} MiB left on the disk of {out}.",
            "Make room (64 MiB at least) and run the same command again.",
        )
    try:
        code = Run(settings, workers, console, lock, accept_loss=accept_loss, feeder=feeder).go()
    except CfbusError as error:
        if shutil.disk_usage(out).free >= FULL_BYTES:
            raise
        # The daemons' own words may not have fitted into their logs.
        raise DiskFullError(
            f"There is no room on the disk of {out}: {error.message}",
            "Make room and run the same command again; what was captioned is kept.",
        ) from error
    if code != EXIT_INTERRUPTED:
        after = local.standing(settings)
        assert after is not None
        done = after.captions - (before.captions if before else 0)
        seconds = time.monotonic() - began
        found = report.Report(
            out, settings.dataset.name, after.items, after.dead_letters, done, seconds, after.left_out
        )
        code = report.show(found, console)
    return code


def default_workers(settings: config.Config) -> int:
    """One worker for every two cores, at most 4, where the engine runs on the CPU; a single GPU for vLLM."""
    if settings.captions.engine == "vllm":
        return 1
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))


def parse_slots(slots: tuple[str, ...], prompt: str | None) -> dict[str, str]:
    """``--slot name="TEXT"`` and ``--prompt "TEXT"`` as slots."""
    parsed: dict[str, str] = {"caption": prompt} if prompt is not None else {}
    for slot in slots:
        name, equals, text = slot.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise UsageError(
                f"--slot {logs.display(slot, 60)} is not NAME=TEXT.", 'For example: --slot tags="List tags."'
            )
        if name.strip() in parsed:
            raise UsageError(
                f"The slot {logs.display(name.strip(), 40)!r} is given twice.",
                "Give each its own name; --prompt is the slot called 'caption'.",
            )
        parsed[name.strip()] = text.strip()
    return parsed


@click.command()
@click.argument("images", nargs=-1)
@click.option(
    "--source",
    type=click.Choice(["folder", "webdataset", "huggingface", "urls"]),
    help="What IMAGES are: folders of pictures, tars, datasets of the Hugging Face hub or parquet files like theirs, or"
    " lists of addresses; by default known by their names.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, readable=False), help="Where captions go; made if needed."
)
@click.option(
    "--slot", "slots", multiple=True, metavar="NAME=TEXT", help="A caption's name and its prompt; repeatable."
)
@click.option("--prompt", metavar="TEXT", help="One prompt, for the slot called caption.")
@click.option("--engine", type=click.Choice(ENGINES), help="What writes captions.")
@click.option("--workers", type=click.IntRange(1, 64), help="How many workers to start here.")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds to wait for another run on the same OUT to end.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, readable=False),
    help="A configuration file to start from.",
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
@click.option("--accept-loss", is_flag=True, help="Go on although the store ends before what was acknowledged.")
@click.option("--feeder", is_flag=True, help="Serve the images to the workers over the bus; they open none themselves.")
def command(
    images: tuple[str, ...],
    source: str | None,
    out: Path,
    slots: tuple[str, ...],
    prompt: str | None,
    engine: str | None,
    workers: int | None,
    wait: float,
    config_file: Path | None,
    overrides: tuple[str, ...],
    accept_loss: bool,
    feeder: bool,
) -> None:
    """Caption all IMAGES into OUT: folders of pictures (with the folders in them), tars of samples, parquet files
    with images, datasets of the Hugging Face hub (hf://NAME/SET), or lists of addresses (.csv, .tsv, .jsonl, .txt;
    .parquet with --source urls).

    Tars and lists are named one by one or by patterns: shards/*.tar, 'shard-{0000..0099}.tar'.

    Run it again at any time: it goes on where it was, and captions what is new.
    """
    console = screen(sys.stdout)

    def go() -> int:
        wanted = local.Wanted(
            images, out, parse_slots(slots, prompt), engine, config_file, overrides, source, accept_loss, feeder
        )
        return caption(wanted, workers, console, os.environ, wait)

    sys.exit(last_frame(go))
