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
from cfbus.errors import StoreInUseError, StoreMismatchError, UsageError
from cfbus.sources.base import NothingKnown
from cfbus.sources.opening import open_source
from cfbus.store.durable import disk_errors, make_dir
from cfbus.store.folder import Store
from cfbus.store.journal import read_frames
from cfbus.store.listing import Known
from cfbus.store.manifest import Manifest

CONFIG_NAME = "cfbus.yaml"
KEY_FILES = {"broker": "broker", "writer": "writer", "worker": "gpu-0", "admin": "admin"}
LOCK_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for; None and empty where it said nothing."""

    folders: tuple[Path, ...]
    out: Path
    slots: Mapping[str, str]
    engine: str | None
    config_file: Path | None
    overrides: tuple[str, ...]


def configure(wanted: Wanted, environ: Mapping[str, str]) -> config.Config:
    """The configuration of this run: what the output folder remembers, then the environment, then the flags."""
    out = wanted.out.absolute()
    remembered = out / CONFIG_NAME
    base = wanted.config_file or (remembered if remembered.exists() else None)
    overrides = [
        f"storage.data_dir={out}",
        f"broker.data_dir={out / 'run'}",
        f"worker.spool_dir={out / 'run' / 'spool'}",
        *(f"{who}.key_file={out / 'keys' / name}.key_secret" for who, name in KEY_FILES.items()),
    ]
    if wanted.engine:
        overrides.append(f"captions.engine={wanted.engine}")
    if wanted.folders:
        overrides.append(f"dataset.paths={json.dumps([str(folder.absolute()) for folder in wanted.folders])}")
    overrides += [f"captions.slots.{name}={text}" for name, text in wanted.slots.items()]
    settings = config.load("run", base, [*overrides, *wanted.overrides], environ).config
    if settings.dataset.source == "folder" and not settings.dataset.paths:
        raise UsageError("Name at least one folder of images.", "For example: cfbus run PHOTOS --out captions")
    if base == remembered:
        _check_same_folders(config.load("run", base, (), {}).config, settings, wanted.out)
    return settings


def _check_same_folders(before: config.Config, wanted: config.Config, out: Path) -> None:
    if before.dataset.paths == wanted.dataset.paths:
        return
    names = ", ".join(str(path) for path in before.dataset.paths)
    raise StoreMismatchError(
        f"{out} holds the captions of {names}.",
        "Name the same folders (or none: they are remembered), or another --out for these.",
    )


def remember(settings: config.Config, out: Path) -> Path:
    """Write the configuration beside the store, for the daemons and the next run."""
    path = out.absolute() / CONFIG_NAME
    text = config.write_commented(settings, out.absolute())
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        fresh = path.with_suffix(".new")
        with disk_errors(path):
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
    return path


def lock_run(out: Path, wait: float, notify: Callable[[str], None]) -> int:
    """Hold the output folder for this run and its children. Waits for what an earlier run left behind to end."""
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
            return lock


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a store is. ``complete``: every image that the source has now is captioned or a dead letter."""

    items: int
    captions: int
    dead_letters: int
    complete: bool


def standing(settings: config.Config) -> Standing | None:
    """How far the store is, without starting anything; None when there is none yet. Opens the source, so that a
    folder that is missing or holds no picture is said at once."""
    source = open_source(settings.dataset)
    root = settings.storage.data_dir
    if not (root / "store.json").exists():
        next(source.shards(NothingKnown()), None)
        return None
    store = Store.peek(root)
    if store.dataset != settings.dataset.name:
        raise StoreMismatchError(
            f"{root} is the store of dataset {store.dataset!r}, not of {settings.dataset.name!r}.",
            "Choose another --out, or give the dataset its name with --set dataset.name=…",
        )
    manifest = Manifest.open(store)
    try:
        items = sum(shard.length for shard in manifest.shards())
        passes = manifest.passes()
        _check_slots(settings, [slot for row in passes for slot in row.slots])
        done = sum(end - begin for _, _, begin, end in manifest.done())
        nothing_unsealed = not any(True for path in store.journal_dir.glob("*.sqlite") for _ in read_frames(path))
        complete = (
            bool(passes)
            and {slot for row in passes for slot in row.slots} == set(settings.captions.slots)
            and done == items * len(passes)
            and nothing_unsealed
            and next(source.shards(Known(store, manifest)), None) is None
        )
        captions = sum(manifest.totals().values())
        return Standing(items, captions, manifest.failures(), complete)
    finally:
        manifest.close()


def _check_slots(settings: config.Config, slots: Sequence[str]) -> None:
    missing = [slot for slot in slots if slot not in settings.captions.slots]
    if missing:
        raise UsageError(
            f"The store was begun with the slot {missing[0]!r}, for which there is no prompt now.",
            f'Give it again (--slot {missing[0]}="…"), or choose another --out.',
        )
