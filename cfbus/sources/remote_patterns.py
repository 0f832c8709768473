"""Addresses named by patterns: braces everywhere, a star where the server can list (s3), each with a name of its own.

What it is for: `RemotePatterns`, the addresses that a person's patterns stand for, now.
What it must not know: what is behind them.

Rules: as for paths (`patterns`): the root is what stands before the first brace or star, at most up to the last slash;
the label is the root's last part; a name is ``<label>/<what follows the root>``, without query. A star does not cross a
slash, ``**`` does. An address without a suffix of tars that ends with a slash stands for all tars below it (s3).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

from cfbus.config_types import shown_url
from cfbus.errors import SourceError
from cfbus.sources.base import LeftOut, ReadError, free_label
from cfbus.sources.patterns import MAX_FILES, TAR_SUFFIXES, expanded_braces, name_problem
from cfbus.sources.remote_files import SCHEMES, RemoteFiles

_STAR: Final = re.compile(r"[*\[]|\?(?=[^=&]*$)")


@dataclass(frozen=True, slots=True)
class RemoteFound:
    """An address that a pattern stands for; ``name`` is its shard's."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class _Pattern:
    given: str
    label: str
    root: str


class RemotePatterns:
    """The addresses that these patterns stand for. Raises SourceError for a pattern that makes no sense."""

    def __init__(self, patterns: Sequence[str], files: RemoteFiles, taken: Collection[str] = ()) -> None:
        self._files = files
        self._patterns: list[_Pattern] = []
        labels = dict.fromkeys(taken, "")
        for given in patterns:
            _check(given)
            root = _root(given)
            label = next((each for each, known in labels.items() if known == root), "")
            if not label:
                label = free_label(_base(root), labels)
                labels[label] = root
            self._patterns.append(_Pattern(given, label, root))

    @property
    def shown(self) -> list[str]:
        """The patterns for people."""
        return [shown_url(each.given) for each in self._patterns]

    def files(self, left_out: LeftOut) -> Iterator[RemoteFound]:
        """Each address once, in order. What cannot be named is left out. Raises SourceError."""
        seen: set[str] = set()
        names: set[str] = set()
        for pattern in self._patterns:
            for address in self._expanded(pattern):
                if address in seen:
                    continue
                name = f"{pattern.label}/{_below(address, pattern.root)}"
                problem = name_problem(name) or ("another address has its name" if name in names else "")
                if problem:
                    left_out.add(shown_url(address), problem, grave=True)
                    continue
                if len(seen) == MAX_FILES:
                    raise SourceError(
                        f"{self.shown[0]}: more than {MAX_FILES} files.", "Make several datasets of them."
                    )
                seen.add(address)
                names.add(name)
                yield RemoteFound(name, address)

    def _expanded(self, pattern: _Pattern) -> Iterator[str]:
        for one in islice(expanded_braces(pattern.given, shown_url(pattern.given)), MAX_FILES + 1):
            if not _is_s3(one) or not (_STAR.search(one) or one.endswith("/")):
                yield one
                continue
            wanted = _expression(one)
            try:
                yield from filter(wanted.fullmatch, self._files.names(_fixed(one)))
            except ReadError as error:
                raise SourceError(error.detail, "Look at the bucket's name, and who may list it.") from None


def _is_s3(address: str) -> bool:
    return address.lower().startswith("s3://")


def _check(given: str) -> None:
    scheme = given.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise SourceError(
            f"dataset.paths: {shown_url(given)} is none of the addresses that tars are read from.",
            "They begin with https://, http:// or s3://.",
        )
    if scheme != "s3" and "*" in given.partition("?")[0]:
        raise SourceError(
            f"dataset.paths: {shown_url(given)}: a web server cannot say what a star stands for.",
            "Name the tars by braces: shard-{0000..0099}.tar.",
        )
    if scheme != "s3" and given.endswith("/"):
        raise SourceError(
            f"dataset.paths: {shown_url(given)}: a web server does not say which tars it has.",
            "Name the tars, by braces: shard-{0000..0099}.tar.",
        )


def _magic(pattern: str) -> int:
    """Where the first brace or star is, or where it ends."""
    found = re.search(r"[{*\[?]" if _is_s3(pattern) else r"[{?]", pattern)
    return found.start() if found else len(pattern)


def _root(pattern: str) -> str:
    return pattern[: _magic(pattern)].rpartition("/")[0]


def _fixed(pattern: str) -> str:
    return pattern[: _magic(pattern)]


def _base(root: str) -> str:
    parts = urlsplit(root)
    return parts.path.rstrip("/").rpartition("/")[2] or parts.netloc.rpartition("@")[2].partition(":")[0]


def _below(address: str, root: str) -> str:
    """What follows the root, without the query of a web address."""
    rest = address.removeprefix(root).lstrip("/")
    return rest if _is_s3(address) else re.split(r"[?#]", rest, maxsplit=1)[0]


def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    steps = {"*": "[^/]*", "?": "[^/]", "**": ".*", "**/": "(?:.*/)?"}
    text = "".join(steps.get(part) or re.escape(part) for part in parts)
    if pattern.endswith("/"):
        text += ".*(?:" + "|".join(map(re.escape, TAR_SUFFIXES)) + ")"
    return re.compile(text)
