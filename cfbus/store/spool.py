"""A worker's spool: results that are not acked yet, a file each, so that they survive the worker.

Losing a file loses unacked work, which may be lost; so files are written whole and renamed but not flushed to the
disk. A file that cannot be read is set aside. Results that were refused for good lie in ``rejected/`` with the reason.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cfbus.bus.messages import Result
from cfbus.bus.wire import WireError, checksum, pack_small, unpack_small
from cfbus.errors import TryAgainError
from cfbus.store.durable import disk_errors

_SUFFIX = ".result"


class Spool:
    """One worker's folder; locked, so that no second worker sends the same results."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._bytes = 0
        self._broken: list[Path] = []
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise TryAgainError(
                f"Another worker uses the spool {folder}.", "Give each worker its own worker.spool_dir or --gpu-id."
            ) from None

    def results(self) -> Iterator[tuple[Result, bytes]]:
        """All that an earlier worker left."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            data = path.read_bytes()
            try:
                record = unpack_small(data)
                payload = record["payload"]
                message = Result.model_validate(record["result"])
            except (WireError, KeyError, ValueError):
                self._set_aside(path, "unreadable")
                continue
            if checksum(payload) != message.crc:
                self._set_aside(path, "damaged")
                continue
            self._bytes += len(data)
            yield message, payload

    def put(self, message: Result, payload: bytes) -> bool:
        """Keep a result. ``False`` when the spool is full: it is then only in memory."""
        fields = message.model_dump(exclude_defaults=True)
        data = pack_small({"result": fields, "payload": payload})
        if self._bytes + len(data) > self._max_bytes:
            return False
        path = self._path(message.instance, message.number)
        fresh = path.with_suffix(".new")
        try:
            fresh.write_bytes(data)
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            return False
        self._bytes += len(data)
        return True

    def drop(self, instance: str, number: int, refused: str) -> None:
        """The result is settled; with a reason, it was refused and is kept aside."""
        path = self._path(instance, number)
        if not path.exists():
            return
        self._bytes -= path.stat().st_size
        if refused:
            self._set_aside(path, refused)
        else:
            path.unlink()

    def _set_aside(self, path: Path, reason: str) -> None:
        rejected = self._folder / "rejected"
        rejected.mkdir(exist_ok=True)
        path.replace(rejected / path.name)
        (rejected / path.name).with_suffix(".reason").write_text(reason + "\n", encoding="utf-8")

    def _path(self, instance: str, number: int) -> Path:
        return self._folder / f"{instance}-{number:012d}{_SUFFIX}"

    def close(self) -> None:
        """Let another worker have it."""
        os.close(self._lock)
