"""Making files durable, and saying in a sentence what the disk refused.

Everything that the store keeps goes through here: a file is written beside, flushed, renamed, and its
directory flushed. Knows nothing of what the files hold.

Invariants: a failed fsync is a ``DamagedStoreError`` and is never tried again, whatever its cause, because
the kernel may have dropped the pages that it could not write; a file gets its final name only after its
content is flushed; the descriptor that is flushed was open before the first byte was written, so that no
write error can fall between two descriptors.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cfbus.errors import CfbusError, DamagedStoreError, DiskFullError, StoreInUseError, UsageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_SHM_NO_ROOM = 4874  # SQLITE_IOERR_SHMSIZE: the shared memory beside a database could not grow
_PRIMARY = 0xFF  # the low byte of an SQLite error code is its class


def disk_full(path: Path) -> DiskFullError:
    """The error for a write to ``path`` that found no room."""
    return DiskFullError(
        f"There is no room on the disk to write {path}.",
        "Free some space (or raise the quota); what was acknowledged is safe, and the work goes on from there.",
    )


def failed_flush(path: Path, error: OSError) -> DamagedStoreError:
    """The error for an fsync of ``path`` that failed."""
    return DamagedStoreError(
        f"The disk could not make {path} durable: {error.strerror}.",
        "Check the disk and its room (dmesg, df), then start again; only what was acknowledged can be relied on.",
    )


def _explain(path: Path, error: OSError) -> CfbusError | None:
    if error.errno in _NO_ROOM:
        return disk_full(path)
    if error.errno == errno.EIO:
        return DamagedStoreError(
            f"The disk failed at {path}: {error.strerror}.",
            "Check the disk (dmesg, smartctl), copy the store to a sound one, then start again.",
        )
    if error.errno in _NOT_ALLOWED:
        return UsageError(
            f"{path} cannot be used: {error.strerror}.",
            "Choose a folder in which you may write, or mend its owner and permissions.",
        )
    return None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into errors of ours; others pass through."""
    try:
        yield
    except OSError as error:
        ours = _explain(path, error)
        if ours is None:
            raise
        raise ours from error


def fsync_fd(fd: int, path: Path) -> None:
    """Flush an open file or directory; ``path`` is for the sentence."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise failed_flush(path, error) from error


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    with disk_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync_fd(fd, path)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make the content of a file durable that somebody else wrote; prefer ``new_file`` for one's own."""
    with disk_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fsync_fd(fd, path)
    finally:
        os.close(fd)


def make_dir(path: Path) -> None:
    """Make a directory, and the ones above it, durably; one that is there is left as it is."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_dir(path.parent)
    with disk_errors(path):
        path.mkdir(exist_ok=True)
    fsync_dir(path.parent)


@contextmanager
def new_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file, made anew, whose content is durable when the block ends well. Its name is not.

    ``private``: from the first byte on only its owner may read it.
    """
    with disk_errors(path), open(path, "wb") as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        yield file
        file.flush()
        fsync_fd(file.fileno(), path)


def publish(written: Path, name: Path) -> None:
    """Give a file that ``new_file`` wrote its final name, in place of what had it, durably."""
    with disk_errors(name):
        written.replace(name)
    fsync_dir(name.parent)
    if written.parent != name.parent:
        fsync_dir(written.parent)


def replace_file(written: Path, name: Path) -> None:
    """``publish`` a file that was written in some other way than ``new_file``."""
    fsync_file(written)
    publish(written, name)


def remove_file(path: Path) -> None:
    """Take a file away durably; one that is not there is no error."""
    with disk_errors(path):
        path.unlink(missing_ok=True)
    fsync_dir(path.parent)


def remove_database(path: Path) -> None:
    """Take an SQLite file away durably, with what SQLite keeps beside it."""
    for beside in ("-wal", "-shm", "-journal"):
        with disk_errors(path):
            path.with_name(path.name + beside).unlink(missing_ok=True)
    remove_file(path)


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says inside the block about the database at ``path`` into errors of ours.

    Our statements are right, so "no such table" and its like also mean that the file was altered.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        # SQLite quotes what it cannot understand of a damaged file, and Python cannot read the quotation.
        raise damaged_file(path, "names in it are no text") from error
    except sqlite3.DatabaseError as error:
        ours = _explain_sqlite(path, error)
        if ours is None:
            raise
        raise ours from error


@contextmanager
def transaction(path: Path, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything in the block, or nothing of it; after an error the connection can be used on."""
    with sqlite_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def keep_log(path: Path, connection: sqlite3.Connection) -> None:
    """Put an SQLite file into WAL mode. If the disk fails meanwhile, SQLite says no more than that nothing changed."""
    with sqlite_errors(path):
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise disk_full(path) if _has_no_room(path) else damaged_file(path, "the disk refused its log")


def flush_database(path: Path) -> None:
    """Flush an SQLite file and its log, before the database is opened.

    A process that was killed may have written a transaction and not flushed it. SQLite would show it without
    flushing it, and whoever acts on it would act on what a power cut can still take away. Not while this
    process has the database open: closing any descriptor of the file would drop SQLite's locks.
    """
    for part in (path, path.with_name(path.name + "-wal")):
        if part.exists():
            fsync_file(part)
    fsync_dir(path.parent)


def _explain_sqlite(path: Path, error: sqlite3.DatabaseError) -> CfbusError | None:
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return None
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = code & _PRIMARY
    if primary == sqlite3.SQLITE_FULL or code == _SHM_NO_ROOM:
        return disk_full(path)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreInUseError(f"Another process is using {path}.", "Wait until it is done, then start again.")
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return disk_full(path) if _has_no_room(path) else _not_openable(path, error)
    return damaged_file(path, str(error))


def damaged_file(path: Path, what: str) -> DamagedStoreError:
    """The error for a database of the store that is not as it was written."""
    return DamagedStoreError(
        f"{path} is damaged: {what}.",
        "Nothing was thrown away. Check the disk (dmesg, smartctl), then put this file back from a backup.",
    )


def _not_openable(path: Path, error: sqlite3.DatabaseError) -> UsageError:
    return UsageError(
        f"{path} cannot be opened: {error}.", "Check that the folder exists and that you may write in it."
    )


def _has_no_room(path: Path) -> bool:
    # A log or shared-memory file that finds no room to be created is only "unable to open" to SQLite.
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail == 0 or (room.f_files > 0 and room.f_favail == 0)


def probe_room(folder: Path) -> bool:
    """Whether there is room again: writes and flushes a little, and takes it away."""
    path = folder / ".probe"
    try:
        with new_file(path) as file:
            file.write(bytes(1 << 20))
    except DiskFullError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
