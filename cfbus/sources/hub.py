"""Datasets of the Hugging Face hub: which files a configuration means, at which commit, and reading them by ranges.

What it is for: `HubPlaces`, the parquet files of one dataset of the hub.
What it must not know: rows, shards, leases.

All that is asked of the hub is asked by `huggingface_hub`, which knows tokens (HF_TOKEN), mirrors (HF_ENDPOINT),
retries, and waiting when there were too many requests. It is imported when it is needed.

Invariants: a branch or tag is resolved once for a listing, and what is opened is opened at that commit; errors come
out as OSError with a sentence, never with a token in it.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final, cast

from cfbus.errors import SourceError
from cfbus.logs import display
from cfbus.sources.base import LeftOut, ReadError, ReadReason
from cfbus.sources.suffixes import is_picture

if TYPE_CHECKING:
    from cfbus.sources.huggingface import Place

ASK_SECONDS: Final = 30.0
BLOCK_BYTES: Final = 4 << 20
MAX_PICTURE_BYTES: Final = 64 << 20
SCHEME: Final = "hf://"
_ADDRESS: Final = re.compile(r"hf://(?:datasets/)?(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+?))?(?:/(.*))?")
_PARTS: Final = r"(?:^|[/_.\- ])"


def _endpoint() -> str | None:
    """A mirror, as the library would have it."""
    return os.environ.get("HF_ENDPOINT") or None


def _client_error() -> type[Exception]:
    """What the library's HTTP client raises, whichever it is: the base of its own errors."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__mro__[1]
    return base


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What the library raises, as an OSError with a sentence."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise OSError(f"{what} is gated: accept its terms on its page, and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise OSError(f"{what} does not exist on the hub, or is private: check its name, and HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise OSError(f"{what} has no such revision") from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(2, f"{what} is not there at this commit") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise OSError(f"the hub answered {status} for {what}") from None
    except (_client_error(), errors.HFValidationError) as error:
        raise OSError(f"{what} cannot be had from the hub: {display(str(error), 200)}") from None


class _HubFile(io.RawIOBase):
    """A file of the hub whose every read may fail with an OSError that is a sentence."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        self._inner = file
        self._what = what

    def read(self, size: int = -1) -> bytes:
        """Some bytes; fewer only at the end."""
        with _told(self._what):
            return self._inner.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """To a place."""
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self._inner.tell()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Let go."""
        self._inner.close()
        super().close()


class HubPlace:
    """A parquet file of a dataset, at the commit that its locators name."""

    def __init__(self, name: str, repo: str, path: str, commit: bytes = b"") -> None:
        self.name = name
        self.where = f"{SCHEME}{repo}/{path}"
        self._repo, self._path, self._commit = repo, path, commit

    def identity(self) -> bytes:
        """The commit at which it was listed."""
        return self._commit

    def is_same(self, identity: bytes) -> bool:
        """A commit never changes."""
        return True

    def open(self, identity: bytes) -> IO[bytes]:
        """For reading by ranges."""
        return self._opened(identity, self._path)

    def _opened(self, commit: bytes, path: str) -> IO[bytes]:
        from huggingface_hub import HfFileSystem

        self._commit = commit
        with _told(f"{SCHEME}{self._repo}/{path}"):
            files = HfFileSystem(endpoint=_endpoint(), block_size=BLOCK_BYTES)
            opened = files.open(f"datasets/{self._repo}@{commit.hex()}/{path}", "rb")
        return cast(IO[bytes], _HubFile(opened, self.where))

    def beside(self, path: str) -> bytes:
        """A picture of the same dataset and commit."""
        folder = self._path.rpartition("/")[0]
        parts = [part for part in f"{folder}/{path}".split("/") if part not in ("", ".")]
        if ".." in parts or path.startswith("/"):
            raise ReadError(ReadReason.OUTSIDE, "Its row names a file outside of the dataset.", "item")
        with self._opened(self._commit, "/".join(parts)) as file:
            data = file.read(MAX_PICTURE_BYTES + 1)
        if len(data) > MAX_PICTURE_BYTES:
            raise ReadError(ReadReason.TOO_LARGE, f"It has more than {MAX_PICTURE_BYTES} bytes.", "item")
        return data


class HubPlaces:
    """One dataset of the hub. Raises SourceError for what is no address of one, or without the library."""

    def __init__(self, address: str, *, config: str = "", split: str = "", revision: str = "") -> None:
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise SourceError(
                f"{display(address, 200)} is no dataset of the hub.",
                "Write it like hf://NAME/SET or hf://NAME/SET@REVISION.",
            )
        try:
            import huggingface_hub  # noqa: F401
        except ModuleNotFoundError:
            raise SourceError(
                "Reading the hub needs huggingface_hub, which is not installed here.",
                "pip install 'cfbus[huggingface]'",
            ) from None
        self._repo, own, self._pattern = match[1], match[2], match[3] or ""
        self._revision = own or revision or None
        self._config, self._split = config, split
        self._label = self._repo.replace("/", "--")
        self.shown = f"{SCHEME}{self._repo}"

    def named(self, shard: str) -> Place | None:
        """The file of a shard of this dataset, without asking anybody."""
        label, slash, path = shard.partition("/")
        return HubPlace(shard, self._repo, path) if slash and label == self._label else None

    def files(self, left_out: LeftOut) -> Iterator[Place]:
        """Its parquet files, at the commit that the revision names now. Raises SourceError."""
        from huggingface_hub import HfApi

        try:
            with _told(f"the dataset {self._repo}"):
                info = HfApi(_endpoint()).dataset_info(self._repo, revision=self._revision, timeout=ASK_SECONDS)
        except OSError as error:
            raise SourceError(f"{self.shown}: {error}.", "Look at the name, the revision, the network.") from None
        paths = sorted(sibling.rfilename for sibling in info.siblings or [])
        wanted = self._wanted(paths, info.card_data.get("configs") if info.card_data else None)
        commit = bytes.fromhex(info.sha or "")
        for path in wanted:
            yield HubPlace(f"{self._label}/{path}", self._repo, path, commit)

    def _wanted(self, paths: Sequence[str], configs: object) -> list[str]:
        tables = [path for path in paths if path.endswith(".parquet")]
        if not tables:
            raise self._no_table(paths)
        if self._pattern:
            pattern = self._pattern if any(c in self._pattern for c in "*?[.") else f"{self._pattern}/*"
            found = [path for path in tables if fnmatch.fnmatch(path, pattern)]
        else:
            found = self._of_card(tables, configs) or self._of_names(tables)
        if not found:
            raise self._nothing(tables)
        return found

    def _no_table(self, paths: Sequence[str]) -> SourceError:
        pictures = sum(is_picture(path.encode()) for path in paths)
        hint = "The hub often has it as parquet: dataset.revision: refs/convert/parquet."
        if pictures:
            hint = f"It holds {pictures} pictures as files: download it (hf download) and caption the folder. {hint}"
        return SourceError(f"{self.shown} has no parquet files.", hint)

    def _nothing(self, tables: Sequence[str]) -> SourceError:
        asked = {"dataset.hub_config": self._config, "dataset.split": self._split, "the path": self._pattern}
        said = " and ".join(f"{key} {display(value, 100)!r}" for key, value in asked.items() if value)
        return SourceError(
            f"{self.shown} has no parquet file for {said}.",
            f"It has {', '.join(display(path, 100) for path in tables[:10])}{' …' if len(tables) > 10 else ''}",
        )

    def _of_card(self, tables: Sequence[str], configs: object) -> list[str]:
        """By the ``configs`` of the dataset's card."""
        known = [each for each in configs if isinstance(each, Mapping)] if isinstance(configs, list) else []
        if self._config:
            known = [each for each in known if each.get("config_name") == self._config]
        elif len(known) > 1:
            known = [each for each in known if each.get("default") or each.get("config_name") == "default"] or known[:1]
        patterns = [pattern for each in known for pattern in self._patterns_in(each.get("data_files"))]
        return [path for path in tables if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]

    def _patterns_in(self, files: object) -> list[str]:
        """Of one config's ``data_files``: a pattern, several, or several for each split."""
        found: list[str] = []
        for each in files if isinstance(files, list) else [files]:
            if isinstance(each, str) and not self._split:
                found.append(each)
            if isinstance(each, Mapping) and self._split in ("", str(each.get("split", ""))):
                path = each.get("path")
                found += [one for one in (path if isinstance(path, list) else [path]) if isinstance(one, str)]
        return found

    def _of_names(self, tables: Sequence[str]) -> list[str]:
        """By the words in their paths, as most are laid out: ``<config>/<split>-00000-of-00003.parquet``."""
        found = list(tables)
        for word in (self._config, self._split):
            if word:
                named = re.compile(rf"{_PARTS}{re.escape(word)}(?:$|[/_.\- ])")
                found = [path for path in found if named.search(path)]
        return found
