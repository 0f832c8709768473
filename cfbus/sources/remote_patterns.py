"""Remote files named by patterns: braces everywhere, stars where there is something to list (s3://).

What it is for: `RemotePatterns`, the addresses that a person's patterns stand for, with the names of their shards.
What it must not know: what is in the files.

Names are made as those of files on a disk (`patterns`): ``<label>/<path below the root>``, where the root is the last
folder before the first brace or star.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from cfbus.errors import SourceError
from cfbus.sources.base import LeftOut, free_label
from cfbus.sources.patterns import MAX_FILES, braces_in, name_problem
from cfbus.sources.remote_files import RemoteError, RemoteFiles, check_address, name_of, shown_address

_MAGIC = frozenset("*?[{")


@dataclass(frozen=True, slots=True)
class RemoteFound:
    """A file that a pattern stands for; ``name`` is its shard's."""

    name: str
    address: str


class RemotePatterns:
    """The files that these addresses stand for. Raises SourceError for one that makes no sense."""

    def __init__(self, addresses: Sequence[str], files: RemoteFiles) -> None:
        self._files = files
        self._patterns: list[tuple[str, str, str]] = []
        labels: dict[str, str] = {}
        for address in addresses:
            check_address(address)
            root = _root(address)
            label = next((each for each, known in labels.items() if known == root), "")
            if not label:
                parts = urlsplit(root)
                label = free_label(parts.path.rstrip("/").rpartition("/")[2] or parts.netloc, labels)
                labels[label] = root
            self._patterns.append((address, label, root))

    @property
    def shown(self) -> str:
        """The patterns for people."""
        names = [shown_address(address) for address, _, _ in self._patterns]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def files(self, left_out: LeftOut) -> Iterator[RemoteFound]:
        """Each file once. Raises SourceError when they cannot be told or are too many."""
        seen: set[str] = set()
        for pattern, label, root in self._patterns:
            for address in self._expanded(pattern):
                if address in seen:
                    continue
                name = f"{label}/{name_of(address, root)}"
                problem = name_problem(name)
                if problem:
                    left_out.add(shown_address(address), problem, grave=True)
                    continue
                if len(seen) == MAX_FILES:
                    raise SourceError(f"{self.shown}: more than {MAX_FILES} files.", "Make several datasets of them.")
                seen.add(address)
                yield RemoteFound(name, address)

    def _expanded(self, pattern: str) -> Iterator[str]:
        for one in islice(braces_in(pattern), MAX_FILES + 1):
            if not set("*?[") & set(one):
                yield one
            elif urlsplit(one).scheme != "s3":
                raise SourceError(
                    f"dataset.paths: {shown_address(one)} has a star, and a web server lists nothing.",
                    "Write the names in braces: shard-{0000..0099}.tar.",
                )
            else:
                try:
                    names = self._files.names(_root(one) + "/")
                except RemoteError as error:
                    raise SourceError(f"dataset.paths: {error}.", "Look at the address and AWS_* variables.") from None
                yield from sorted(name for name in names if fnmatch.fnmatchcase(name, one))


def _root(address: str) -> str:
    """The folder that a pattern starts from."""
    parts = address.split("/")
    magic = next((at for at, part in enumerate(parts) if _MAGIC & set(part)), len(parts) - 1)
    return "/".join(parts[: max(min(magic, len(parts) - 1), 3)])
