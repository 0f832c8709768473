"""Files behind https:// and s3://, read by ranges: in blocks that neighbours share, at one version.

What it is for: `RemoteFiles`, bytes of a remote file at any place, for several threads.
What it must not know: tars, listings, which files may be read.

`obstore` speaks HTTP and S3, with retries and credentials from the environment (AWS_*); it is imported when it is
needed.

Invariants:
- A block is fetched once for all threads that want bytes of it; at most `KEPT_BYTES` are kept.
- All that is read of an opened file is of one version: each request asks for the version that was seen first, and a
  file that has another one now is `RemoteChangedError`, never a mixture.
- A stream that was cut is an error, never an end. What is shown of an address holds no password and no signature.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from concurrent.futures import Future
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from cfbus.errors import SourceError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig
    from typing_extensions import Buffer

BLOCK_BYTES: Final = 4 << 20
KEPT_BYTES: Final = 64 << 20
FILES_KNOWN: Final = 64
SCHEMES: Final = ("http", "https", "s3")
_CLIENT: Final[ClientConfig] = {"timeout": "120s", "connect_timeout": "15s", "allow_http": True}
_RETRIES: Final[RetryConfig] = {"max_retries": 4, "retry_timeout": timedelta(seconds=90)}


class RemoteError(OSError):
    """The file cannot be read now; the message is the end of a sentence."""


class RemoteChangedError(RemoteError):
    """The file is another one than it was."""


def is_remote(address: str) -> bool:
    """Whether it is an address that can be read here."""
    return urlsplit(address).scheme.lower() in SCHEMES


def shown_address(address: str) -> str:
    """For people: without user, password and what stands behind a question mark."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{unquote(parts.path)}"


def check_address(address: str) -> None:
    """Raises SourceError for an address that cannot be read here."""
    parts = urlsplit(address)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise SourceError(
            f"dataset.paths: {shown_address(address)} is no address that is read here.",
            "Use https://, http:// or s3://.",
        )
    if parts.username or parts.password or parts.query:
        raise SourceError(
            f"dataset.paths: {shown_address(address)} holds a password or a signature.",
            "They would be kept with the dataset: use AWS_* variables, or a proxy that adds them.",
        )


class _Stores:
    """One store for each host or bucket."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: dict[str, ObjectStore] = {}

    def of(self, address: str) -> tuple[ObjectStore, str]:
        """The store of an address, and the path in it."""
        parts = urlsplit(address)
        base = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            if base not in self._stores:
                self._stores[base] = _store(base)
        return self._stores[base], parts.path.lstrip("/")


def _store(base: str) -> ObjectStore:
    try:
        from obstore.store import HTTPStore, S3Store
    except ModuleNotFoundError:
        raise SourceError(
            "Reading from https:// and s3:// needs obstore, which is not installed here.", "pip install 'cfbus[remote]'"
        ) from None
    if base.startswith("s3://"):
        return S3Store.from_url(base, client_options=_CLIENT, retry_config=_RETRIES)
    return HTTPStore.from_url(base, client_options=_CLIENT, retry_config=_RETRIES)


class RemoteFiles:
    """Remote files, opened as they are asked for."""

    def __init__(self) -> None:
        self._stores = _Stores()
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._blocks: OrderedDict[tuple[str, str, int], Future[bytes]] = OrderedDict()
        self.requests = 0

    def size(self, address: str) -> int:
        """Bytes of the file. Raises RemoteError."""
        return self._known(address)[0]

    def read(self, address: str, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer where the file ends. Raises RemoteError."""
        end = min(offset + size, self.size(address))
        pieces = []
        while offset < end:
            number = offset // BLOCK_BYTES
            block = self._block(address, number)
            start = offset - number * BLOCK_BYTES
            piece = block[start : start + end - offset]
            if not piece:
                raise RemoteError(f"{shown_address(address)} ended before its size")
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def open(self, address: str) -> io.BufferedReader:
        """For reading forwards, with seeks."""
        return io.BufferedReader(_Forwards(self, address), BLOCK_BYTES)

    def names(self, address: str) -> list[str]:
        """The addresses below a prefix of an s3 bucket. Raises RemoteError."""
        import obstore

        store, prefix = self._stores.of(address)
        base = address[: len(address) - len(prefix)]
        with _told(address):
            return [base + str(meta["path"]) for page in obstore.list(store, prefix or None) for meta in page]

    def _known(self, address: str) -> tuple[int, str]:
        with self._lock:
            known = self._files.get(address)
        if known is None:
            import obstore

            store, path = self._stores.of(address)
            with _told(address):
                meta = obstore.head(store, path)
            known = int(meta["size"]), str(meta["e_tag"] or "")
            with self._lock:
                self._files[address] = known
                while len(self._files) > FILES_KNOWN:
                    self._files.popitem(last=False)
        return known

    def forget(self, address: str) -> None:
        """Look at it anew the next time: it may be another file by then."""
        with self._lock:
            self._files.pop(address, None)

    def _block(self, address: str, number: int) -> bytes:
        size, version = self._known(address)
        key = (address, version, number)
        with self._lock:
            future = self._blocks.get(key)
            mine = future is None
            if future is None:
                future = self._blocks[key] = Future()
            self._blocks.move_to_end(key)
            while len(self._blocks) > KEPT_BYTES // BLOCK_BYTES:
                self._blocks.popitem(last=False)  # who waits for it still gets it
        if mine:
            try:
                start = number * BLOCK_BYTES
                future.set_result(self._fetch(address, version, start, min(start + BLOCK_BYTES, size)))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(key, None)
                future.set_exception(error)
                raise
        return future.result()

    def _fetch(self, address: str, version: str, start: int, end: int) -> bytes:
        import obstore

        store, path = self._stores.of(address)
        options: dict[str, Any] = {"range": (start, end)} | ({"if_match": version} if version else {})
        with _told(address):
            self.requests += 1
            result = obstore.get(store, path, options=options)  # type: ignore[arg-type]
            data = bytes(result.bytes())
        if str(result.meta["e_tag"] or "") != version:
            raise RemoteChangedError(f"{shown_address(address)} was replaced")
        if len(data) != end - start:
            raise RemoteError(f"{shown_address(address)} sent {len(data)} bytes of {end - start}")
        return data


class _told:
    """What obstore raises, as RemoteError with a sentence that holds no signature."""

    def __init__(self, address: str) -> None:
        self._where = shown_address(address)

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        from obstore import exceptions

        match error:
            case exceptions.PreconditionError():
                raise RemoteChangedError(f"{self._where} was replaced") from None
            case exceptions.NotSupportedError():
                raise RemoteError(f"the server of {self._where} does not serve parts of files (Range)") from None
            case FileNotFoundError():
                raise RemoteError(f"{self._where} does not exist") from None
            case exceptions.PermissionDeniedError() | exceptions.UnauthenticatedError():
                raise RemoteError(f"{self._where} may not be read with these credentials") from None
            case exceptions.BaseError() | OSError():
                raise RemoteError(f"{self._where} cannot be read: {_reason(str(error))}") from None
            case _:
                return


def _reason(said: str) -> str:
    """The part of obstore's words that helps."""
    lower = said.lower()
    for words, reason in (
        ("certificate", "its certificate is not trusted"),
        ("non-2xx status code: ", ""),
        ("timed out", "it takes too long"),
        ("connect", "nobody answers there"),
        ("body", "the connection was cut"),
    ):
        if words in lower:
            at = lower.index(words) + len(words)
            return reason or f"status {said[at : at + 3]}"
    return "it failed for a reason that is not known"


class _Forwards(io.RawIOBase):
    """A remote file as Python reads files."""

    def __init__(self, files: RemoteFiles, address: str) -> None:
        self._files = files
        self._address = address
        self._size = files.size(address)
        self._at = 0

    def readinto(self, buffer: Buffer) -> int:
        """Some bytes."""
        view = memoryview(buffer)
        data = self._files.read(self._address, self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """To a place."""
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True


def name_of(address: str, root: str) -> str:
    """A file's path below the root of its pattern."""
    path, base = urlsplit(address).path, urlsplit(root).path
    return str(PurePosixPath(unquote(path)).relative_to(PurePosixPath(unquote(base) or "/")))
