"""The Hugging Face hub: which commit a revision is, which files it has, ranges of their bytes.

What it is for: `Hub`, one dataset of the hub, asked through the client of `huggingface_hub`: its token, its endpoint
(``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``), its errors.
What it must not know: tables, pictures, shards.

Invariants:
- A request takes at most `TIMEOUT` seconds without a byte, an answer `SECONDS` in all and the memory that was asked
  for; it is tried `ATTEMPTS` times, and what the hub says to wait (``Retry-After``) is waited where it is at most
  `MAX_PAUSE` seconds, else given up. The library's own repetition waits as long as a server says, so it is not used.
- An answer that is shorter than it said, or than what was asked for, is an error of the network and never an end.
- A token is never part of a message: of the library's errors only their kind is told.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

from cfbus.errors import SourceError
from cfbus.logs import display
from cfbus.sources.base import Fault, ReadError, ReadReason

if TYPE_CHECKING:
    from httpx2 import Response

TIMEOUT: Final = 20.0
SECONDS: Final = 300.0
ATTEMPTS: Final = 4
MAX_PAUSE: Final = 60.0
MAX_FILES: Final = 1_000_000
_MAX_PAGE: Final = 64 << 20
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_ADDRESS: Final = re.compile(
    r"hf://(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<below>.*))?"
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A dataset of the hub; ``below`` is a folder, file or pattern in it, or empty."""

    name: str
    revision: str
    below: str

    @classmethod
    def parse(cls, address: str) -> HubAddress:
        """``hf://NAME/SET``, ``hf://datasets/NAME/SET@REVISION/FOLDER``. Raises SourceError."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise SourceError(
                f"{display(address, 200)}: this is no address of a dataset of the hub.",
                "Write it like hf://NAME/SET, or hf://datasets/NAME/SET@REVISION/FOLDER.",
            )
        below = (found["below"] or "").strip("/")
        return cls(found["name"], unquote(found["revision"] or ""), below)


@dataclass(frozen=True, slots=True)
class HubFile:
    path: str
    size: int


class HubError(ReadError):
    """The hub did not give what was asked for; ``hint`` is what to do about it."""

    hint = ""

    def for_listing(self) -> SourceError:
        """The same, where nothing can be listed because of it."""
        return SourceError(self.detail, self.hint or "Try again later; what was captioned is kept.")


class _PassingError(HubError):
    """An attempt failed; another may go better, after ``wait`` seconds where the hub said so."""

    wait: float | None = None


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never means anything else."""
    return _COMMIT.fullmatch(revision) is not None


class Hub:
    """One dataset of the hub. Raises SourceError when `huggingface_hub` is not installed. Safe from several threads."""

    def __init__(self, name: str, *, pause: float = 1.0) -> None:
        try:
            import httpx2
            import huggingface_hub
            from huggingface_hub import constants, errors
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("httpx2", "huggingface_hub"):
                raise
            raise SourceError(
                "Datasets of the hub need huggingface_hub, which is not installed here.",
                "pip install 'cfbus[huggingface]'",
            ) from None
        self.name = name
        self._pause = pause
        self._library = huggingface_hub
        self._errors = errors
        self._transport = httpx2.HTTPError, httpx2.InvalidURL
        self._endpoint = constants.ENDPOINT
        self._api = f"{self._endpoint}/api/datasets/{name}"
        self._closed = threading.Event()

    @property
    def page(self) -> str:
        """Where people read about it."""
        return f"{self._endpoint}/datasets/{self.name}"

    def close(self) -> None:
        """Who waits to try again, waits no more."""
        self._closed.set()

    def commit(self, revision: str) -> str:
        """The commit that a branch or tag is now (``main`` where none is named). Raises HubError."""
        commit = self._about(revision or "main").get("sha")
        if not isinstance(commit, str) or not is_commit(commit):
            raise self._broken("the hub named no commit")
        return commit

    def card(self, commit: str) -> Mapping[str, Any]:
        """What the head of its README says. Raises HubError."""
        card = self._about(commit).get("cardData")
        return card if isinstance(card, dict) else {}

    def _about(self, revision: str) -> Mapping[str, Any]:
        said = self._json(f"{self._api}/revision/{quote(revision, safe='')}")[0]
        return said if isinstance(said, dict) else {}

    def files(self, commit: str) -> list[HubFile]:
        """All files of a commit, sorted by path. Raises HubError, or SourceError where there are too many."""
        found: list[HubFile] = []
        for entry in self._entries(commit):
            path, size = entry.get("path"), entry.get("size")
            if entry.get("type") == "file" and isinstance(path, str) and isinstance(size, int):
                found.append(HubFile(path, size))
            if len(found) > MAX_FILES:
                raise SourceError(f"{self.name}: more than {MAX_FILES} files.", "Name a folder of it.")
        return sorted(found, key=lambda file: file.path)

    def _entries(self, commit: str) -> Iterator[Mapping[str, Any]]:
        url = f"{self._api}/tree/{commit}?recursive=true"
        for _ in range(MAX_FILES):
            entries, following = self._json(url)
            if not isinstance(entries, list):
                raise self._broken("the hub listed no files")
            yield from (entry for entry in entries if isinstance(entry, dict))
            if not following:
                return
            # A mirror may name the hub itself: only where to go on is taken from it, never another server.
            before, url = url, f"{self._api}/tree/{commit}?{urlsplit(following).query}"
            if url == before:
                raise self._broken("the hub lists the same files again and again")

    def read(self, path: str, commit: str, start: int, size: int) -> bytes:
        """``size`` bytes of a file from ``start`` on. Raises HubError; a file that is shorter is one."""
        if not size:
            return b""
        body, headers = self._ask(self._url(path, commit), size, {"range": f"bytes={start}-{start + size - 1}"})
        said = _RANGE.fullmatch(headers.get("content-range", ""))
        if said is None or int(said[1]) != start or len(body) != size:
            raise self._broken(f"{len(body)} of {size} bytes came")
        return body

    def whole(self, path: str, commit: str, most_bytes: int) -> bytes:
        """A whole file. Raises HubError; ``too-large-file`` above so many bytes."""
        return self._ask(self._url(path, commit), most_bytes, {})[0]

    def _url(self, path: str, commit: str) -> str:
        return f"{self.page}/resolve/{commit}/{quote(path)}"

    # -- asking

    def _json(self, url: str) -> tuple[Any, str]:
        body, headers = self._ask(url, _MAX_PAGE, {})
        following = re.search(r'<([^>]+)>;\s*rel="?next', headers.get("link", ""))
        try:
            return json.loads(body), following[1] if following else ""
        except (ValueError, RecursionError):
            raise self._broken("the hub's answer is no JSON") from None

    def _ask(self, url: str, most_bytes: int, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        until = time.monotonic() + SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(url, most_bytes, headers, until)
            except _PassingError as error:
                pause = error.wait if error.wait is not None else self._pause * 2 ** (attempt - 1)
                late = pause > MAX_PAUSE or time.monotonic() + pause >= until
                if attempt == ATTEMPTS or late or self._closed.wait(pause):
                    raise
        raise AssertionError("no attempt")

    def _attempt(
        self, url: str, most_bytes: int, headers: Mapping[str, str], until: float
    ) -> tuple[bytes, Mapping[str, str]]:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # it is made on demand

        asked = {**build_hf_headers(library_name="cfbus"), **headers, "accept-encoding": "identity"}
        try:
            with self._library.get_session().stream("GET", url, headers=asked, timeout=TIMEOUT) as answer:
                if answer.status_code not in (200, 206):
                    raise self._refused(answer)
                if headers and answer.status_code != 206:
                    raise self._broken("the hub gives no parts of files")
                return self._body(answer, most_bytes, until), answer.headers
        except self._errors.OfflineModeIsEnabled:
            raise self._error(ReadReason.SOURCE_MISSING, "HF_HUB_OFFLINE is set", "worker", "Unset it.") from None
        except self._transport as error:
            raise _PassingError(
                ReadReason.CONNECTION_FAILED, f"{self.name}: the hub: {type(error).__name__}.", "network"
            ) from None

    def _body(self, answer: Response, most_bytes: int, until: float) -> bytes:
        body = bytearray()
        for piece in answer.iter_raw():
            body += piece
            if len(body) > most_bytes:
                detail = f"It has more than {most_bytes} bytes."
                raise HubError(ReadReason.TOO_LARGE, detail, "item")
            if time.monotonic() > until:
                raise HubError(ReadReason.TOO_SLOW, f"The hub sent {len(body)} bytes in {SECONDS:.0f} s.", "network")
        return bytes(body)

    def _broken(self, what: str) -> HubError:
        return self._error(ReadReason.BAD_ANSWER, what, "network", "")

    def _error(self, reason: ReadReason, what: str, fault: Fault, hint: str) -> HubError:
        error = HubError(reason, f"{self.name}: {what}.", fault)
        error.hint = hint
        return error

    def _refused(self, answer: Response) -> HubError:
        """What the hub's refusal means, by what its library makes of it."""
        try:
            self._library.hf_raise_for_status(answer)
        except self._errors.GatedRepoError:
            what = "the hub shows it only to who accepted its terms"
            hint = f"Accept its terms at {self.page}, and set HF_TOKEN to a token of yours."
            return self._error(ReadReason.SOURCE_MISSING, what, "worker", hint)
        except self._errors.RevisionNotFoundError:
            return self._error(
                ReadReason.SOURCE_MISSING, "it has no such revision", "worker", "Check dataset.revision."
            )
        except self._errors.EntryNotFoundError:
            return self._error(ReadReason.VANISHED, "the hub does not have the file any more", "item", "")
        except self._errors.HfHubHTTPError:
            pass
        return self._refused_by_status(answer)

    def _refused_by_status(self, answer: Response) -> HubError:
        status = answer.status_code
        if status in _PASSING:
            error = _PassingError(ReadReason(f"http-{status}"), f"{self.name}: the hub answered {status}.", "network")
            after = answer.headers.get("retry-after", "").strip()
            error.wait = float(after) if after.isascii() and after.isdigit() and len(after) < 10 else None
            return error
        if status in (401, 403, 404):
            hint = "Check its name; if it is private, set HF_TOKEN to a token that may read it (or: hf auth login)."
            what = f"the hub has no dataset of this name, or does not show it here ({status})"
            return self._error(ReadReason.SOURCE_MISSING, what, "worker", hint)
        return self._error(ReadReason(f"http-{status}"), f"the hub answered {status}", "network", "")
