"""Ranges of objects in S3: one request, one range, under the version that was listed.

What it is for: `S3Ranges`, how `remote_files` asks s3://BUCKET/KEY.
What it must not know: tars, caches, how often something is tried (the library is told to try once).

Who asks, and whom, is said by the environment as everywhere: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, AWS_SKIP_SIGNATURE, or by the machine's role.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NoReturn

from cfbus.config_downloads import Downloading
from cfbus.config_types import shown_url
from cfbus.errors import SourceError
from cfbus.sources.addresses import PassingError
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.remote_files import MIN_RATE, Piece, changed

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3Store

MAX_BUCKETS: Final = 100
MAX_LISTED: Final = 1_000_000
_LARGEST: Final = 8 << 20
_STATUS: Final = re.compile(r"status code: (\d{3})")
_PASSING: Final = frozenset({408, 425, 429})


class S3Ranges:
    """See `Ranges`. Raises SourceError when the library is not installed."""

    def __init__(self, settings: Downloading) -> None:
        try:
            import obstore
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "obstore":
                raise
            raise SourceError(
                "Reading tars in S3 needs obstore, which is not installed here.", "pip install 'cfbus[s3]'"
            ) from None
        self._library = obstore
        self._errors = (obstore.exceptions.BaseError, OSError, ValueError)
        self._settings = settings
        self._lock = threading.Lock()
        self._stores: dict[str, S3Store] = {}

    def close(self) -> None:
        with self._lock:
            self._stores.clear()

    def get(self, address: str, offset: int, size: int, version: str) -> Piece:
        """See `Ranges.get`."""
        bucket, key = _parts(address)
        try:
            options: GetOptions = {"range": (offset, offset + size)}
            if version:
                options["if_match"] = version
            answer = self._library.get(self._store(bucket), key, options=options)
            data = bytes(answer.bytes())
        except self._errors as error:
            if offset == 0 and _status(error) == 416:
                return Piece(b"", 0, "")
            _raise(error, address)
        total, now = int(answer.meta["size"]), answer.meta["e_tag"] or ""
        if version and now != version:
            raise changed(address)
        if tuple(answer.range) != (offset, min(offset + size, total)):
            detail = f"{shown_url(address)}: the server sent another range than it was asked for."
            raise ReadError(ReadReason.BAD_ANSWER, detail, "worker")
        if len(data) != min(offset + size, total) - offset:
            detail = f"{shown_url(address)}: the answer was cut off after {len(data)} bytes."
            raise PassingError(ReadReason.BAD_ANSWER, detail, "network")
        return Piece(data, total, now)

    def names(self, prefix: str) -> Iterator[str]:
        """See `Ranges.names`."""
        bucket, start = _parts(prefix, whole=False)
        folder, _, begin = start.rpartition("/")
        try:
            store = self._store(bucket)
            found = itertools.chain.from_iterable(self._library.list(store, folder or None))
            names = [str(each["path"]) for each in itertools.islice(found, MAX_LISTED + 1)]
        except self._errors as error:
            _raise(error, prefix)
        if len(names) > MAX_LISTED:
            raise ReadError(ReadReason.TOO_LARGE, f"{shown_url(prefix)}: more than {MAX_LISTED} objects.", "item")
        whole = f"{folder}/{begin}" if folder else begin
        return (f"s3://{bucket}/{name}" for name in sorted(names) if name.startswith(whole))

    def _store(self, bucket: str) -> S3Store:
        from obstore.store import S3Store

        with self._lock:
            if bucket not in self._stores:
                if len(self._stores) >= MAX_BUCKETS:
                    self._stores.clear()
                patience = self._settings.timeout_seconds
                self._stores[bucket] = S3Store(
                    bucket,
                    client_options={
                        "allow_http": _endpoint().startswith("http://"),
                        "connect_timeout": timedelta(seconds=patience),
                        "read_timeout": timedelta(seconds=patience),
                        "timeout": timedelta(seconds=patience + _LARGEST // MIN_RATE),
                    },
                    retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=patience)},
                )
            return self._stores[bucket]


def _endpoint() -> str:
    return (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "").lower()


def _parts(address: str, *, whole: bool = True) -> tuple[str, str]:
    bucket, _, key = address.partition("://")[2].partition("/")
    if not bucket or (whole and not key) or "@" in bucket:
        detail = f"{shown_url(address)} is not like s3://BUCKET/KEY."
        raise ReadError(ReadReason.BAD_URL, detail, "item")
    return bucket, key


def _status(error: Exception) -> int:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else 0


def _raise(error: Exception, address: str) -> NoReturn:
    """In words of our own: what the library says may hold what the server said, and more."""
    where, status = shown_url(address), _status(error)
    kind, text = type(error).__name__, str(error).lower()
    if status == 412 or status == 416 or kind == "PreconditionError":
        raise changed(address) from None
    if status == 301 or "incorrectly configured region" in text:
        detail = f"{where}: the bucket is in another region; set AWS_REGION."
        raise ReadError(ReadReason.BAD_ANSWER, detail, "worker") from None
    if status >= 500 or status in _PASSING:
        raise PassingError(ReadReason(f"http-{status}"), f"{where}: S3 answered with {status}.", "network") from None
    if status or isinstance(error, FileNotFoundError):
        status = status or 404
        more = " Do AWS_ACCESS_KEY_ID and its like name one who may read it?" if status in (401, 403) else ""
        detail = f"{where}: S3 answered with {status}.{more}"
        raise ReadError(ReadReason(f"http-{status}"), detail, "worker" if more else "item") from None
    if "certificate" in text:
        raise ReadError(ReadReason.CERTIFICATE, f"{where}: the server's certificate is not good.", "worker") from None
    if "credential" in text or "169.254.169.254" in text:
        detail = f"{where}: no credentials for S3 were found (AWS_ACCESS_KEY_ID …, or AWS_SKIP_SIGNATURE=true)."
        raise ReadError(ReadReason.UNREADABLE, detail, "worker") from None
    raise PassingError(ReadReason.CONNECTION_FAILED, f"{where}: S3 was asked in vain.", "network") from None
