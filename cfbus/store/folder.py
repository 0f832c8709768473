"""The store as a folder: its identity, its lock, and where things lie in it.

Knows nothing of what its files hold. Readers come in by ``Store.peek`` without the lock; exactly one
writer holds the lock, an flock on the file ``lock``. The lock belongs to the open file, so a child that
inherits the descriptor (``pass_fds=(store.lock_fd,)``) holds it too until it ends: a new writer waits
for a seal that an old writer left behind.

Invariants: ``store.json`` is written once and never changed; a folder that holds anything else is never
made into a store, and nothing at all is written into a folder that is refused; under the lock
``staging/`` holds only leftovers when the store is opened, and they are removed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from cfbus.errors import DamagedStoreError, StoreInUseError, StoreMismatchError, UsageError
from cfbus.store.durable import disk_errors, fsync_dir, make_dir, new_file, publish

FORMAT_VERSION = 1
IDENTITY, LOCK, IDENTITY_TMP = "store.json", "lock", ".store.json.new"
FOLDERS = ("listing", "journal", "captions", "failures", "staging")
MAY_BE_THERE = frozenset({LOCK, IDENTITY_TMP, "run", "keys", "cfbus.yaml"})
"""What a folder may hold and still become a store: our own beginnings, keys, configuration."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Store:
    """One output folder with one dataset. ``lock_fd`` is None for readers."""

    root: Path
    store_id: str
    dataset: str
    created: str
    lock_fd: int | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        dataset: str,
        *,
        create: bool,
        wait: float = 0.0,
        notify: Callable[[str], None] | None = None,
    ) -> Store:
        """Open for writing, waiting at most ``wait`` seconds for the lock; ``notify`` hears that it waits.

        Raises ``StoreInUseError``, ``StoreMismatchError`` (another dataset, a newer format, something else's
        folder), ``UsageError`` (no store there, not allowed), ``DiskFullError``.
        """
        root = path.absolute()
        _check_place(root, create=create)
        make_dir(root)
        fd = _lock(root, wait, notify)
        try:
            if not (root / IDENTITY).exists():
                _check_place(root, create=create)
                fsync_dir(root.parent)  # a run that was killed may have made the folder and not come this far
                _write_identity(root, dataset)
            store = cls.peek(root)
            _check_dataset(store, dataset)
            _prepare(root)
        except BaseException:
            os.close(fd)
            raise
        return cls(root, store.store_id, store.dataset, store.created, fd)

    @classmethod
    def peek(cls, path: Path) -> Store:
        """The store at ``path`` for reading, without its lock. Raises as ``open`` does."""
        root = path.absolute()
        return cls(root, *_read_identity(root))

    @property
    def locked(self) -> bool:
        """Whether this is the one writer of the store."""
        return self.lock_fd is not None

    @property
    def manifest_path(self) -> Path:
        """The list of segments, shards and passes."""
        return self.root / "manifest.sqlite"

    @property
    def journal_dir(self) -> Path:
        """Where the journal files lie."""
        return self.root / "journal"

    @property
    def staging_dir(self) -> Path:
        """Where files are written before they get their names; nothing here counts."""
        return self.root / "staging"

    def listing_path(self, number: int) -> Path:
        """The listing of a shard."""
        return self.root / "listing" / f"{number:08d}.parquet"

    def table_path(self, table: str, first: int | None = None) -> Path:
        """The folder of a table (``captions`` or ``failures``), or its segment that begins at ``first``."""
        folder = self.root / table
        return folder if first is None else folder / f"{first:016d}.parquet"

    def snapshot_path(self, table: str) -> Path:
        """The file of a table that is replaced as a whole: ``jobs`` or ``contributors``."""
        return self.root / f"{table}.parquet"

    def close(self) -> None:
        """Let go of the lock. Children that inherited it keep it, so this must not unlock explicitly."""
        if self.lock_fd is not None:
            os.close(self.lock_fd)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_place(root: Path, *, create: bool) -> None:
    """Refuse, before anything is written, a place that is no store and cannot become one."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file, not a folder.", "Name a folder for the output.")
    if root.is_dir():
        with disk_errors(root):
            names = {entry.name for entry in root.iterdir()}
        if IDENTITY in names:
            return
        other = sorted(names - MAY_BE_THERE)
        if other:
            raise StoreMismatchError(
                f"{root} holds other things ({', '.join(other[:3])}) and is no store of cfbus.",
                f"Name an empty or new folder; if it was a store, put its {IDENTITY} back from a backup.",
            )
    if not create:
        raise UsageError(f"There is no store at {root}.", "Check the path, or let the writer make it.")


def _check_dataset(store: Store, dataset: str) -> None:
    if store.dataset != dataset:
        raise StoreMismatchError(
            f"The store {store.root} belongs to the dataset {store.dataset!r}, not to {dataset!r}.",
            "Name another output folder, or the dataset of this one.",
        )


def _prepare(root: Path) -> None:
    for name in FOLDERS:
        make_dir(root / name)
    fsync_dir(root)
    staging = root / "staging"
    with disk_errors(staging):
        leftovers = list(staging.iterdir())
        for leftover in leftovers:
            leftover.unlink()
    if leftovers:
        fsync_dir(staging)


def _write_identity(root: Path, dataset: str) -> None:
    fields = {
        "format": FORMAT_VERSION,
        "store_id": secrets.token_hex(8),
        "dataset": dataset,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with new_file(root / IDENTITY_TMP) as file:
        file.write(json.dumps(fields, indent=2).encode() + b"\n")
    publish(root / IDENTITY_TMP, root / IDENTITY)


def _read_identity(root: Path) -> tuple[str, str, str]:
    path = root / IDENTITY
    try:
        with disk_errors(path):
            fields = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        near = [str(folder) for folder in (root.parent, root / "captions") if (folder / IDENTITY).is_file()]
        hint = f"There is one at {near[0]}." if near else "Check the path."
        raise UsageError(f"There is no store at {root}.", hint) from None
    except ValueError:
        raise _broken_identity(path) from None
    version = fields.get("format") if isinstance(fields, dict) else None
    if type(version) is not int:
        raise _broken_identity(path)
    if version > FORMAT_VERSION:
        raise StoreMismatchError(
            f"The store {root} was written by a newer cfbus (format {version}, this one knows {FORMAT_VERSION}).",
            "Upgrade: pip install --upgrade cfbus.",
        )
    store_id, dataset, created = (fields.get(name) for name in ("store_id", "dataset", "created"))
    if not isinstance(store_id, str) or not isinstance(dataset, str) or not isinstance(created, str):
        raise _broken_identity(path)
    return store_id, dataset, created


def _broken_identity(path: Path) -> DamagedStoreError:
    return DamagedStoreError(f"{path} does not say which store this is.", "Put this file back from a backup.")


def _lock(root: Path, wait: float, notify: Callable[[str], None] | None) -> int:
    path = root / LOCK
    with disk_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for_lock(fd, path, wait, notify)
        with disk_errors(path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _wait_for_lock(fd: int, path: Path, wait: float, notify: Callable[[str], None] | None) -> None:
    deadline = time.monotonic() + wait
    told = False
    while not _try_lock(fd, path):
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoreInUseError(
                f"The store {path.parent} is in use by {_holder(fd)}.",
                "Wait until that run has ended, or end it; two writers on one store would harm it.",
            )
        if notify is not None and not told:
            notify(f"Waiting for {_holder(fd)} to let go of the store {path.parent}.")
            told = True
        time.sleep(min(_POLL_SECONDS, left))


def _try_lock(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise UsageError(
            f"The file system of {path} has no locks, and without one two writers could harm the store.",
            "Put the store on a local disk.",
        ) from error
    return True


def _holder(fd: int) -> str:
    pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return f"process {pid} (or a child of it)" if pid.isdigit() else "another process"
