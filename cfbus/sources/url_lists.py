"""Images behind the addresses in lists: each row an item, downloaded when it is captioned.

What it is for: `UrlSource`, the source of lists as img2dataset takes them.
What it must not know: the bus, leases, how the listing is stored, HTTP (`downloads` does).

Rules of the listing:
- Each file is listed in shards of `shard_items` rows, ``<folder>/<file>-<number>``, in the memory of one of them. Every
  row is an item: one without a good address becomes a dead letter with its sentence.
- Rows that are appended make new shards. A list whose listed rows changed is not listed any further, and reported.

Rules of reading (the locator may come from somebody who lies):
- The address comes with the item: no list is opened. What may be reached by it, this host's own configuration says
  (`dataset.downloads`); the source is opened only where that configuration names ``urls``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from cfbus.config_downloads import Downloading
from cfbus.errors import SourceError
from cfbus.logs import display
from cfbus.sources.base import (
    Content,
    Item,
    Known,
    LeftOut,
    ListedShard,
    ReadError,
    ReadReason,
    shard_name,
)
from cfbus.sources.columns import MAX_URL_BYTES
from cfbus.sources.downloads import Downloads
from cfbus.sources.list_locators import RowLocator, chained, checksum_in, with_checksum
from cfbus.sources.list_rows import LIST_SUFFIXES, BadListError, OpenList, Row, open_list
from cfbus.sources.patterns import Found, Patterns

URL_NAMES: Final = ("url", "image_url", "img_url", "image_link", "link", "src", "image")
MAX_KEY_BYTES: Final = 1024

_Named: TypeAlias = tuple[str, RowLocator]


class UrlSource:
    """Lists the rows of the files that `patterns` stand for, and downloads what they name.

    Raises SourceError when the patterns make no sense or nothing can be downloaded here.
    """

    def __init__(
        self,
        patterns: Sequence[Path],
        downloads: Downloading,
        *,
        url_column: str = "",
        key_column: str = "",
        follow_links: bool = False,
        shard_items: int = 4096,
    ) -> None:
        self._patterns = Patterns(patterns, follow_links=follow_links, suffixes=LIST_SUFFIXES)
        self._url_column = url_column
        self._key_column = key_column
        self._shard_items = shard_items
        self._downloads = Downloads(downloads)
        self.readers = downloads.at_once
        self.left_out = LeftOut()

    def out_of_reach(self) -> str:
        """See `Source.out_of_reach`: the lists need not be here, addresses come with the items."""
        return ""

    def close(self) -> None:
        """See `Source.close`."""
        self._downloads.close()

    # -- listing

    def shards(self, known: Known) -> Iterator[ListedShard]:
        """See `Source.shards`. Raises SourceError at the end when neither new nor known is anything."""
        self.left_out = LeftOut()
        anything = False
        for found in self._patterns.files(self.left_out):
            anything = anything or known.next_number(found.name) > 0
            for shard in self._listed(found, known):
                anything = True
                yield shard
        if not anything:
            left = "".join(f" {thing.path} {thing.reason}." for thing in self.left_out.things[:3])
            raise SourceError(
                f"{self._patterns.shown}: no list with addresses was found.{left}",
                "Name lists (.parquet, .csv, .tsv, .jsonl, .txt) or a folder that holds some.",
            )

    def _listed(self, found: Found, known: Known) -> Iterator[ListedShard]:
        try:
            with open_list(found.path) as opened:
                yield from self._sliced(found, opened, known)
        except BadListError as error:
            self.left_out.add(display(str(found.path), 1000), str(error), grave=True)

    def _sliced(self, found: Found, opened: OpenList, known: Known) -> Iterator[ListedShard]:
        number = known.next_number(found.name)
        before, last = known.end(found.name)
        rows = self._items(found, opened)
        checksum, passed = 0, 0
        for _, locator in islice(rows, before):
            checksum, passed = chained(checksum, locator.url), passed + 1
        if before and (passed < before or checksum_in(last) not in (None, checksum)):
            self._changed(found, before)
            return
        taken, problem = _take(rows, self._shard_items)
        while taken:
            for _, locator in taken:
                checksum = chained(checksum, locator.url)
            yield _shard(found, number, taken, checksum)
            number += 1
            taken, problem = _take(rows, self._shard_items) if problem is None else ([], problem)
        if problem is not None:
            raise problem
        if not number:
            raise BadListError("has no rows")

    def _changed(self, found: Found, before: int) -> None:
        said = (
            f"is not the list that was listed: its first {before} rows changed. What was listed stays; nothing is added"
        )
        self.left_out.add(display(str(found.path), 1000), said, grave=True)

    def _items(self, found: Found, opened: OpenList) -> Iterator[_Named]:
        column = url_column(opened.names, self._url_column, found.path)
        if self._key_column and self._key_column not in opened.names:
            raise _no_column(self._key_column, opened.names, found.path, "dataset.key_column")
        for number, row in enumerate(opened.rows):
            yield self._key(row, number), _locator(row, column)

    def _key(self, row: Row, number: int) -> str:
        said = "" if isinstance(row, str) or not self._key_column else row.get(self._key_column, "")
        key = str(said).encode("utf-8", "replace")[:MAX_KEY_BYTES].decode("utf-8", "ignore")
        return key or str(number)

    # -- reading

    def read(self, shard: str, item: Item) -> Content:
        """See `Source.read`."""
        row = _unpacked(item.locator)
        if row.reason is not None:
            raise ReadError(row.reason, row.detail, "item")
        return Content(self._downloads.get(row.url), self.columns(item))

    def columns(self, item: Item) -> Mapping[str, object]:
        """See `ColumnsApart.columns`; ``url`` is where the image comes from, whatever the list calls so."""
        row = _unpacked(item.locator)
        return {**row.columns, "url": row.url}


def _unpacked(locator: bytes) -> RowLocator:
    try:
        return RowLocator.unpack(locator)
    except ValueError:
        raise ReadError(ReadReason.OUTSIDE, "Its locator is not one of a list's row.", "worker") from None


def _take(rows: Iterator[_Named], count: int) -> tuple[list[_Named], BadListError | None]:
    """So many rows more, and what ended them early: what stands before it counts."""
    taken: list[_Named] = []
    try:
        taken.extend(islice(rows, count))
    except BadListError as error:
        return taken, error
    return taken, None


def _shard(found: Found, number: int, rows: list[_Named], checksum: int) -> ListedShard:
    locators = [locator.pack() for _, locator in rows]
    locators[-1] = with_checksum(locators[-1], checksum)
    return ListedShard(shard_name(found.name, number), [key for key, _ in rows], locators)


def _locator(row: Row, column: str) -> RowLocator:
    if isinstance(row, str):
        return RowLocator(reason=ReadReason.BAD_ROW, detail=row)
    url = row.get(column)
    url = url.strip() if isinstance(url, str) else ""
    problem = _problem(url)
    if problem:
        return RowLocator(reason=ReadReason.BAD_URL, detail=problem)
    return RowLocator(url, {name: value for name, value in row.items() if name != column})


def _problem(url: str) -> str:
    if not url:
        return "Its row has no address."
    try:
        size = len(url.encode())
    except UnicodeEncodeError:
        return "Its address is not text."
    if size > MAX_URL_BYTES:
        return f"Its address has more than {MAX_URL_BYTES} bytes."
    if not url.isprintable():
        return "Its address has characters that no address has."
    if not url.lower().startswith(("http://", "https://")):
        return f"Its address begins with {url[:20]!r}, not with http:// or https://."
    return ""


def url_column(names: Sequence[str], wanted: str, path: Path) -> str:
    """Which column of a table or list holds the addresses: the one ``wanted``, else the first that is called so.

    Raises SourceError.
    """
    if wanted in names:
        return wanted
    if not wanted:
        small = {name.lower(): name for name in reversed(names)}
        found = next((small[name] for name in URL_NAMES if name in small), None)
        if found is not None:
            return found
    raise _no_column(wanted or "url", names, path, "dataset.url_column")


def _no_column(wanted: str, names: Sequence[str], path: Path, key: str) -> SourceError:
    near = get_close_matches(wanted, names, 1, 0.6)
    meant = f"; did you mean {display(near[0], 60)}?" if near else ""
    there = ", ".join(display(name, 40) for name in names[:20]) or "none"
    return SourceError(
        f"{display(str(path), 500)}: it has no column {display(wanted, 60)} (its columns: {there}{meant}).",
        f"Say with {key} which one it is.",
    )
