"""What `cfbus run` starts from: the folder of a local run, its configuration, and whether there is anything to do.

The output folder is the store; beside the store's own files it holds ``cfbus.yaml``, ``keys/`` and ``run/`` (registry,
ledger, logs, spools), so that the same command goes on where it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfbus import config
from cfbus.config_overlay import Option
from cfbus.config_types import folder_problem, is_url, shown_url
from cfbus.errors import StoreInUseError, StoreMismatchError, UsageError
from cfbus.sources.base import NothingKnown
from cfbus.sources.opening import open_source
from cfbus.store.durable import disk_errors, make_dir, new_file, publish
from cfbus.store.folder import IDENTITY, MAY_BE_THERE, Store
from cfbus.store.left_out import LeftOut, read_left_out
from cfbus.store.listing import Known
from cfbus.store.manifest import Manifest

CONFIG_NAME = "cfbus.yaml"
KEY_FILES = {"broker": "broker", "writer": "writer", "worker": "gpu-0", "feeder": "feeder", "admin": "admin"}
LOCK_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for; None and empty where it said nothing."""

    images: tuple[Path | str, ...]
    out: Path
    slots: Mapping[str, str]
    engine: str | None
    config_file: Path | None
    overrides: tuple[str, ...]
    source: str | None = None
    accept_loss: bool = False
    feeder: bool = False


def configure(wanted: Wanted, environ: Mapping[str, str]) -> config.Config:
    """The configuration of this run: what the output folder remembers, then the environment, then the flags."""
    out = wanted.out.absolute()
    remembered = out / CONFIG_NAME
    problem = folder_problem(out)
    if problem:
        raise UsageError(f"{out} cannot be the folder for the output: {problem}.", "Name an empty or new folder.")
    with disk_errors(out):
        is_remembered = remembered.is_file()
    base = wanted.config_file or (remembered if is_remembered else None)
    loaded = config.load("run", base, [*_flags(wanted, out), *wanted.overrides], environ)
    config.check_effects(loaded)
    settings = loaded.config
    if settings.storage.data_dir != out:
        raise UsageError("cfbus run keeps its store in --out.", f"Give --out {settings.storage.data_dir} instead.")
    if settings.dataset.source != "scripted" and not settings.dataset.paths:
        raise UsageError("Name at least one folder of images, or tars.", "For example: cfbus run PHOTOS --out captions")
    if is_remembered:
        _check_same_folders(config.load("run", remembered, (), {}).config, settings, wanted.out)
    return settings


def _flags(wanted: Wanted, out: Path) -> list[Option]:
    """The command line as settings, each under the name that the person typed."""
    places = {
        ("storage", "data_dir"): out,
        ("broker", "data_dir"): out / "run",
        ("worker", "spool_dir"): out / "run" / "spool",
        **{(who, "key_file"): out / "keys" / f"{name}.key_secret" for who, name in KEY_FILES.items()},
    }
    flags = [Option("--out", path, str(place)) for path, place in places.items()]
    if wanted.engine:
        flags.append(Option("--engine", ("captions", "engine"), wanted.engine))
    if wanted.images:
        images = json.dumps([place(image) for image in wanted.images])
        flags.append(Option("IMAGES", ("dataset", "paths"), images))
    if wanted.source:
        flags.append(Option("--source", ("dataset", "source"), wanted.source))
    return flags + [Option(f"--slot {name}", ("captions", "slots", name), text) for name, text in wanted.slots.items()]


def place(image: Path | str) -> str:
    """What was named on the command line, as ``dataset.paths`` has it: an address as it is, a path from the root."""
    return image if isinstance(image, str) and is_url(image) else str(Path(image).absolute())


def _check_same_folders(before: config.Config, wanted: config.Config, out: Path) -> None:
    if before.dataset.paths == wanted.dataset.paths:
        return
    names = ", ".join(shown_url(path) if isinstance(path, str) else str(path) for path in before.dataset.paths)
    raise StoreMismatchError(
        f"{out} holds the captions of {names}.",
        "Name the same images (or none: they are remembered), or another --out for these.",
    )


def remember(settings: config.Config, out: Path) -> Path:
    """Write the configuration beside the store, for the daemons and the next run."""
    path = out.absolute() / CONFIG_NAME
    text = config.write_commented(settings, out.absolute()).encode()
    if not path.exists() or path.read_bytes() != text:
        fresh = out.absolute() / "run" / f"{CONFIG_NAME}.new"  # not beside it: there it would not look like a store
        make_dir(fresh.parent)
        with new_file(fresh, private=config.is_private(settings)) as file:
            file.write(text)
        publish(fresh, path)
    return path


def lock_run(out: Path, wait: float, notify: Callable[[str], None]) -> tuple[int, bool]:
    """Hold the output folder for this run and its children. Waits for another run, or what one left behind, to end.

    Returns the descriptor that holds the lock, and whether it had to wait (things may have changed meanwhile).
    """
    make_dir(out.absolute())
    make_dir(out.absolute() / "run")
    path = out.absolute() / "run" / "run.lock"
    with disk_errors(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                raise StoreInUseError(
                    f"Another run is at work in {out} (or processes of one that was killed are still ending).",
                    "Wait for it, or choose another --out.",
                ) from None
            if not told:
                told = True
                notify(f"Waiting for the processes of another run in {out} to end …")
            time.sleep(LOCK_POLL_SECONDS)
        else:
            return lock, told


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a store is. ``complete``: every image that the source has now is captioned or a dead letter, but for
    what cannot be listed (``left_out``)."""

    items: int
    captions: int
    dead_letters: int
    complete: bool
    left_out: LeftOut


def standing(settings: config.Config) -> Standing | None:
    """How far the store is, without starting anything; None when there is none yet. Opens the source, so that a
    folder that is missing or holds no picture is said at once."""
    source = open_source(settings.dataset)
    root = settings.storage.data_dir
    if _is_fresh(root):
        next(source.shards(NothingKnown()), None)
        return None
    store = Store.peek(root)
    if store.dataset != settings.dataset.name:
        raise StoreMismatchError(
            f"{root} is the store of dataset {store.dataset!r}, not of {settings.dataset.name!r}.",
            "Choose another --out, or give the dataset its name with --set dataset.name=…",
        )
    if not any(store.listing_path(0).parent.glob("*")):
        return None  # A run was killed at its very beginning: even the manifest may be half made.
    manifest = Manifest.open(store)
    try:
        items = sum(shard.length for shard in manifest.shards())
        passes = manifest.passes()
        _check_slots(settings, [slot for row in passes for slot in row.slots])
        wanted = {row.number: items if row.items is None else row.items for row in passes if not row.closed}
        done = sum(end - begin for number, _, begin, end in manifest.done() if number in wanted)
        # What the journal holds only its writer may say, and it may be at work; when all is sealed there is no file.
        all_sealed = next(store.journal_dir.glob("*.sqlite"), None) is None
        complete = (
            bool(passes)
            and {slot for row in passes for slot in row.slots} == set(settings.captions.slots)
            and done == sum(wanted.values())
            and all_sealed
            and next(source.shards(Known(store, manifest)), None) is None
        )
        captions = sum(manifest.totals().values())
        return Standing(items, captions, manifest.failures(), complete, read_left_out(root))
    finally:
        manifest.close()


def _is_fresh(root: Path) -> bool:
    """Whether there is no store yet. Somebody else's folder is refused before anything is written into it."""
    with disk_errors(root):
        names = {entry.name for entry in root.iterdir()} if root.is_dir() else set()
    other = sorted(names - MAY_BE_THERE)
    if other and IDENTITY not in names:
        raise StoreMismatchError(
            f"{root} holds other things ({', '.join(other[:3])}) and is no store of cfbus.",
            f"Name an empty or new folder; if it was a store, put its {IDENTITY} back from a backup.",
        )
    return IDENTITY not in names


def _check_slots(settings: config.Config, slots: Sequence[str]) -> None:
    missing = [slot for slot in slots if slot not in settings.captions.slots]
    if missing:
        raise UsageError(
            f"The store was begun with the slot {missing[0]!r}, for which there is no prompt now.",
            f'Give it again (--slot {missing[0]}="…"), or choose another --out.',
        )
