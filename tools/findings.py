"""What `cfbus check` finds wrong before a GPU is busy: places, room, keys, the store, prompts and their columns.

Each finding is a sentence and what to do; a *grave* one keeps a run from going well. Nothing is changed: a file that is
written to try a folder has no name.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cfbus.bus import keys
from cfbus.config import Config
from cfbus.core.prompts import columns_in
from cfbus.errors import CfbusError, DiskFullError, UsageError
from cfbus.logs import display
from cfbus.store.durable import disk_errors
from cfbus.tools import local
from cfbus.tools.trial import Columns, Trial

TRIED_BYTES = 1 << 20
MIN_FREE_BYTES = 64 << 20
ROW_BYTES = 400
"""A guess of what a caption takes in the journal, before it is sealed."""


_LACKING = {
    "fail": "they become dead letters",
    "skip": "they get an empty caption",
    "empty": "they get a prompt without it",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. ``exit_code`` is that of the command when it is the first grave one."""

    grave: bool
    sentence: str
    hint: str = ""
    exit_code: int = UsageError.exit_code


def grave(error: CfbusError) -> Finding:
    """An error of ours as a finding."""
    return Finding(True, error.message, error.hint, error.exit_code)


def of_places(settings: Config) -> Iterator[Finding]:
    """Folders that have to be written to: there or to be made, writable, with room."""
    storage, broker, worker = settings.storage.data_dir, settings.broker.data_dir, settings.worker.spool_dir
    for key, folder in (("storage", storage), ("broker", broker), ("worker", worker)):
        name = f"{key}.{'spool_dir' if key == 'worker' else 'data_dir'}"
        try:
            try_to_write(folder)
        except CfbusError as error:
            yield Finding(True, f"{name}: {error.message}", error.hint, error.exit_code)


def try_to_write(folder: Path) -> None:
    """Raises what is wrong with a folder, or with the one that it would be made in."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with disk_errors(folder), tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}.", "Choose another folder.") from error
    free = shutil.disk_usage(there).free
    if free < MIN_FREE_BYTES:
        raise DiskFullError(f"there are only {free >> 20} MiB left on the disk of {folder}.", "Make room.")


def of_room(settings: Config, items: int) -> Iterator[Finding]:
    """Whether what is to come will fit, by a rough guess."""
    folder = settings.storage.data_dir
    there = next(each for each in (folder, *folder.parents) if each.exists())
    need = items * len(settings.captions.slots) * ROW_BYTES
    free = shutil.disk_usage(there).free
    if need > free:
        yield Finding(
            False,
            f"{items:,} items with {len(settings.captions.slots)} captions each may take some {need >> 30:,} GiB;"
            f" there are {free >> 30:,} GiB left on the disk of {folder}.",
            "Make room before it ends; a run waits when the disk is full.",
        )


def of_keys(settings: Config) -> Iterator[Finding]:
    """Key files that are there can be used, and everybody expects this broker."""
    files: dict[str, Path] = {
        name: getattr(settings, name).key_file for name in ("broker", "writer", "worker", "admin")
    }
    missing = [name for name, file in files.items() if not file.exists()]
    for name in [name for name in files if name not in missing]:
        try:
            keys.load(files[name])
        except CfbusError as error:
            yield Finding(True, f"{name}.key_file: {error.message}", error.hint, error.exit_code)
    if missing:
        names = ", ".join(f"{name}.key_file" for name in missing)
        yield Finding(
            False, f"There is no key yet for {names}.", "cfbus run makes its own; for a bus, cfbus init does."
        )
    if "broker" not in missing:
        with suppress(CfbusError):
            yield from _of_server_keys(settings, keys.load(settings.broker.key_file).public)


def _of_server_keys(settings: Config, public: bytes) -> Iterator[Finding]:
    for name, peer in (("writer", settings.writer), ("worker", settings.worker), ("admin", settings.admin)):
        if not peer.server_key:
            continue
        try:
            same = keys.parse_public_line(peer.server_key)[0] == public
        except CfbusError as error:
            yield Finding(True, f"{name}.server_key: {error.message}", error.hint, error.exit_code)
            continue
        if not same:
            line = keys.public_line(public, "broker")
            sentence = f"{name}.server_key is not the key of the broker in broker.key_file."
            yield Finding(True, sentence, f"It would be {line}; keep what is there if this machine has no broker.")


def of_ports(settings: Config) -> Iterator[Finding]:
    """Whether somebody listens already where the broker should."""
    for name, port in (("port", settings.broker.port), ("stats_port", settings.broker.stats_port)):
        with socket.socket(socket.AF_INET6 if ":" in settings.broker.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.broker.host, port))
            except OSError as error:
                sentence = f"broker.{name}: {settings.broker.host}:{port} cannot be listened on: {error.strerror}."
                yield Finding(False, sentence, "Fine if the broker runs already or elsewhere; else choose another.")


def of_store(settings: Config) -> Iterator[Finding]:
    """Whether the store that is there is of this dataset and these slots."""
    try:
        before = local.standing(settings)
    except CfbusError as error:
        yield grave(error)
        return
    if before is not None:
        yield Finding(
            False,
            f"The store {settings.storage.data_dir} is begun: {before.items:,} items listed, {before.captions:,}"
            f" captions and {before.dead_letters:,} dead letters sealed.",
        )


def of_columns(settings: Config, columns: Columns) -> Iterator[Finding]:
    """Columns that prompts and rows need, and items have or lack."""
    for slot, body in settings.captions.slots.items():
        for name in columns_in(body.prompt):
            yield from _of_column(settings, columns, name, f"The prompt of the slot {slot} needs the column")
    for name in settings.dataset.keep_columns:
        if name != "*" and columns.read and name not in columns.have:
            what = f"dataset.keep_columns names {display(name, 60)!r}"
            yield Finding(False, f"{what}, which none of the first {columns.read} items has.", _nearest(name, columns))


def _of_column(settings: Config, columns: Columns, name: str, what: str) -> Iterator[Finding]:
    have, read = columns.have.get(name, 0), columns.read
    policy = settings.captions.missing_column
    if not have:
        sentence = f"{what} {display(name, 60)!r}, which none of the first {read} items has."
        yield Finding(policy == "fail", sentence, _nearest(name, columns))
    elif have < read:
        does = {"fail": "become dead letters", "skip": "get an empty caption", "empty": "get a prompt without it"}[
            policy
        ]
        sentence = f"{what} {display(name, 60)!r}, which {read - have} of the first {read} items lack: they {does}."
        yield Finding(False, sentence, "captions.missing_column decides: fail, skip or empty.")


def _nearest(name: str, columns: Columns) -> str:
    near = get_close_matches(name, columns.have, 1, 0.6)
    if near:
        return f"Did you mean {display(near[0], 60)!r}?"
    names = ", ".join(display(known, 60) for known in sorted(columns.have)[:20])
    return f"The columns are {names}." if names else "These items have no columns at all."


def of_items(tried: Trial) -> Iterator[Finding]:
    """Items that cannot be captioned, and what could not be listed."""
    bad = [one for one in tried.tried if one.problem]
    if bad:
        every = len(bad) == len(tried.tried)
        sentence = f"{len(bad)} of the first {len(tried.tried)} items cannot be captioned: {bad[0].problem}"
        yield Finding(every, sentence, "They would become dead letters." if not every else "")
    left = tried.counted.left_out
    if left.grave:
        thing = next(each for each in left.things if each.grave)
        yield Finding(
            True,
            f"{left.grave} things that may hold images cannot be listed, such as {thing.path}: {thing.reason}.",
            "Mend them, or leave them out of dataset.paths.",
        )


SETTINGS_CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (of_places, of_keys, of_ports)
