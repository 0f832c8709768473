"""Tables of images as the library `datasets` keeps them: parquet files, here or on the hub; and plain pictures.

What it is for: `HuggingFaceSource`.
What it must not know: the bus, leases, how the listing is stored, HTTP.

Rules of the listing:
- A table is a shard; one of more than `SHARD_ROWS` rows is several, cut at the borders of its row groups: ``name``,
  ``name#2`` and so on. ``name`` comes last: where it is listed, all are. Of a table only its footer is read, and the
  column of keys where one is named.
- Tables of one set have their images in the same column as its first one; another is left out and told.

Rules of reading (the locator may come from somebody who lies):
- Only tables of the sets are opened that this host's own configuration names.
- A table's size and footer must be those that were listed, before and after rows are read: nothing is mixed.
- Images that are not in the table are read from beside it, never from outside the set; addresses are fetched by the
  rules of `dataset.downloads`.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

from cfbus.config_downloads import Downloading
from cfbus.errors import SourceError
from cfbus.logs import display
from cfbus.sources.base import Content, Item, Known, LeftOut, ListedShard, ReadError, ReadReason, free_label
from cfbus.sources.downloads import Downloads
from cfbus.sources.hub_sets import HubSet, hub_address
from cfbus.sources.local_sets import LocalSet
from cfbus.sources.sets import TableAt, TableSet
from cfbus.sources.table_columns import Choice, Wanted, cells_of, image_in, key_in, text_in
from cfbus.sources.table_files import BadTableError
from cfbus.sources.table_locators import Origin, PictureAt, TableRow, unpack
from cfbus.sources.tables import KeptRows, Table

SHARD_ROWS: Final = 200_000
MAX_KEY_BYTES: Final = 1024
KEPT_OPEN: Final = 4
_PART: Final = re.compile(r"#[0-9]+$")


@dataclass(slots=True)
class _Open:
    """A table that is being opened, or is open."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    table: Table | None = None


class HuggingFaceSource:
    """Lists and reads the tables that these paths and addresses stand for.

    Raises SourceError when they make no sense, or what they need is not installed.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        downloads: Downloading,
        wanted: Wanted,
        *,
        config: str = "",
        split: str = "",
        revision: str = "",
        follow_links: bool = False,
        shard_items: int = 4096,
        max_file_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._wanted = wanted
        self._downloading = downloads
        self._max_file_bytes = max_file_bytes
        self._lock = threading.Lock()
        self._downloads: Downloads | None = None
        self._open: OrderedDict[tuple[str, Origin], _Open] = OrderedDict()
        self._kept = KeptRows()
        self.left_out = LeftOut()
        self._sets: list[TableSet] = []
        labels: list[str] = []
        for address in (path for path in paths if isinstance(path, str)):
            found = hub_address(address, revision)
            labels.append(free_label(found.name.replace("/", "--"), labels))
            self._sets.append(
                HubSet(
                    found,
                    labels[-1],
                    config=config,
                    split=split,
                    shard_items=shard_items,
                    max_file_bytes=max_file_bytes,
                )
            )
        here = [path for path in paths if isinstance(path, Path)]
        if here:
            self._sets.append(
                LocalSet(
                    here,
                    config=config,
                    split=split,
                    shard_items=shard_items,
                    max_file_bytes=max_file_bytes,
                    follow_links=follow_links,
                )
            )
        several = max((each.readers for each in self._sets), default=1)
        self.readers = max(several, downloads.at_once) if wanted.url else several

    def out_of_reach(self) -> str:
        """See `Source.out_of_reach`."""
        if not self._sets:
            return "No table and no dataset is named here."
        return next(filter(None, (each.problem() for each in self._sets)), "")

    def close(self) -> None:
        """See `Source.close`."""
        with self._lock:
            opened, downloads = list(self._open.values()), self._downloads
            self._open.clear()
        for each in opened:
            with each.lock:
                if each.table is not None:
                    each.table.close()
        if downloads is not None:
            downloads.close()
        for one in self._sets:
            one.close()

    # -- listing

    def shards(self, known: Known) -> Iterator[ListedShard]:
        """See `Source.shards`. Raises SourceError at the end when neither new nor known is anything."""
        self.left_out = LeftOut()
        anything = False
        names: set[str] = set()
        for one in self._sets:
            some = tables = False
            first: dict[str, tuple[TableAt, Choice]] = {}
            for at in one.tables(known, self.left_out):
                tables = True
                if at.name in names:
                    self.left_out.add(at.shown, f"would have the name of another table, {at.name}", grave=True)
                    continue
                names.add(at.name)
                if known.lists(at.name):
                    some = True
                    continue
                for shard in self._listed(one, at, first, known):
                    some = True
                    yield shard
            if not tables:
                yield from one.pictures(known, self.left_out)
                some = True
            anything = anything or some
        if not anything:
            raise self._nothing()

    def _listed(
        self, one: TableSet, at: TableAt, first: dict[str, tuple[TableAt, Choice]], known: Known
    ) -> Iterator[ListedShard]:
        if _PART.search(at.name):
            self.left_out.add(at.shown, "has a name that ends like a part of another table", grave=True)
            return
        try:
            table = Table.open(at.open(), self._wanted, buffer_bytes=one.buffer_bytes)
        except (BadTableError, ReadError, OSError) as error:
            self.left_out.add(at.shown, f"{_reason(error)}{_as_in(first.get(at.set_name))}", grave=True)
            return
        try:
            before = first.setdefault(at.set_name, (at, table.choice))
            if table.choice.where != before[1].where:
                said = f"has its images in the column {display(table.choice.where, 60)}"
                self.left_out.add(at.shown, said + _as_in(before), grave=True)
            elif not table.rows:
                self.left_out.add(at.shown, "has no rows", grave=True)
            else:
                yield from self._cut(at, table, known)
        except (BadTableError, ReadError) as error:
            self.left_out.add(at.shown, _reason(error), grave=True)
        finally:
            table.close()

    def _cut(self, at: TableAt, table: Table, known: Known) -> Iterator[ListedShard]:
        """The table in shards. A column of keys that cannot be read is found before the first of them counts."""
        if not _same(known.first(f"{at.name}#"), table):
            raise BadTableError("changed while it was listed. What was listed stays; nothing is added")
        keys = list(self._keys(table)) if self._wanted.key else None
        width = len(str(table.rows - 1))
        cuts = list(accumulate(_cuts(table.groups)))
        for number in range(len(cuts), 0, -1):
            name = at.name if number == 1 else f"{at.name}#{number}"
            if known.lists(name):
                continue
            begin, end = cuts[number - 2] if number > 1 else 0, cuts[number - 1]
            locators = [
                TableRow(group, row, table.file.identity, at.origin).pack()
                for group, row in islice(_places(table.groups, begin), end - begin)
            ]
            named = [(keys[row] if keys else "") or f"{row:0{width}d}" for row in range(begin, end)]
            ends = [row - begin for row in accumulate(table.groups) if begin < row <= end]
            yield ListedShard(name, named, locators, ends)

    def _keys(self, table: Table) -> Iterator[str]:
        for cell in table.cells(self._wanted.key):
            yield key_in(cell).encode("utf-8", "replace")[:MAX_KEY_BYTES].decode("utf-8", "ignore")

    def _nothing(self) -> SourceError:
        names = ", ".join(one.shown for one in self._sets)
        left = "".join(f" {thing.path} {thing.reason}." for thing in self.left_out.things[:3])
        if left:
            return SourceError(f"{names}: no table with images was found.{left}", "Mend it, or name others.")
        hint = next((one.hint() for one in self._sets), "Name parquet files or a dataset of the hub (hf://NAME/SET).")
        return SourceError(f"{names}: no table with images was found, and no picture.", hint)

    # -- reading

    def read(self, shard: str, item: Item) -> Content:
        """See `Source.read`."""
        try:
            place = unpack(item.locator)
        except ValueError:
            raise ReadError(ReadReason.OUTSIDE, "Its locator is not one of a dataset's item.", "worker") from None
        name = _PART.sub("", shard) if isinstance(place, TableRow) else shard
        one = next((one for one in self._sets if one.has(name, place.origin)), None)
        if one is None:
            raise ReadError(ReadReason.SOURCE_MISSING, f"No dataset here has the shard {shard}.", "worker")
        if isinstance(place, PictureAt):
            data = one.picture(name, place.place.url, place.origin, beside=False)
            return Content(data, place.place.columns)
        return self._row(one, name, place)

    def _row(self, one: TableSet, name: str, place: TableRow) -> Content:
        table = self._table(one, name, place)
        try:
            batch, row = table.row(self._kept, place.group, place.row)
        except ReadError as error:
            if error.reason is ReadReason.CHANGED:
                self._forget(name, place, table)
            raise
        columns: Mapping[str, object] = cells_of(batch, row, table.choice)
        if table.choice.url:
            url = text_in(batch.column(table.choice.url)[row])
            return Content(self._fetched(url), {**columns, "url": url})
        data, path = image_in(batch.column(table.choice.image)[row], self._max_file_bytes)
        if data is not None:
            return Content(data, columns)
        if path.lower().startswith(("http://", "https://")):
            return Content(self._fetched(path), columns)
        if not path:
            raise ReadError(ReadReason.NO_IMAGE, "Its row has no image.", "item")
        return Content(one.picture(name, path, place.origin, beside=True), columns)

    def _fetched(self, url: str) -> bytes:
        if not url:
            raise ReadError(ReadReason.NO_IMAGE, "Its row has no address.", "item")
        with self._lock:
            if self._downloads is None:
                try:
                    self._downloads = Downloads(self._downloading)
                except SourceError as error:
                    raise ReadError(ReadReason.SOURCE_MISSING, f"{error.message} {error.hint}", "worker") from None
            downloads = self._downloads
        return downloads.get(url)

    def _table(self, one: TableSet, name: str, place: TableRow) -> Table:
        """The table, open, and the one that was listed."""
        key = name, place.origin
        with self._lock:
            holder = self._open.setdefault(key, _Open())
            self._open.move_to_end(key)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)  # closed when the last thread that reads from it is done
        with holder.lock:
            if holder.table is None:
                holder.table = self._opened(one, name, place)
            table = holder.table
        if table.file.identity != place.table:
            self._forget(name, place, table)
            raise _changed()
        return table

    def _opened(self, one: TableSet, name: str, place: TableRow) -> Table:
        source = one.open(name, place.origin, place.table.size)
        if source.size != place.table.size:
            source.close()
            raise _changed()
        try:
            return Table.open(source, self._wanted, buffer_bytes=one.buffer_bytes)
        except BadTableError as error:
            source.close()
            detail = f"The table {error}, and is not the one that was listed."
            raise ReadError(ReadReason.CHANGED, detail, "worker") from None

    def _forget(self, name: str, place: TableRow, table: Table) -> None:
        """It is opened anew for the next item."""
        with self._lock:
            holder = self._open.get((name, place.origin))
            if holder is not None and holder.table is table:
                del self._open[name, place.origin]
        self._kept.forget(table.number)


def _places(groups: Sequence[int], begin: int) -> Iterator[tuple[int, int]]:
    """Row group and row of each row of a table, from the row ``begin`` on."""
    for group, rows in enumerate(groups):
        yield from ((group, row) for row in range(min(begin, rows), rows))
        begin = max(0, begin - rows)


def _same(listed: bytes, table: Table) -> bool:
    """Whether the part of a table that is listed, if any, is of this one."""
    try:
        place = unpack(listed) if listed else None
    except ValueError:
        return False
    return place is None or (isinstance(place, TableRow) and place.table == table.file.identity)


def _cuts(groups: Sequence[int]) -> Iterator[int]:
    """How many rows the shards of a table have: whole row groups, but of one that is larger than a shard may be."""
    size = 0
    for rows in groups:
        if size and size + rows > SHARD_ROWS:
            yield size
            size = 0
        size += rows
        while size > SHARD_ROWS:
            yield SHARD_ROWS
            size -= SHARD_ROWS
    if size:
        yield size


def _changed() -> ReadError:
    return ReadError(ReadReason.CHANGED, "The table is not the one that was listed.", "worker")


def _reason(error: Exception) -> str:
    """An error as the end of a sentence about a table."""
    if isinstance(error, ReadError):
        return f"cannot be read: {error.detail.rstrip('.')}"
    if isinstance(error, OSError):
        return "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
    return str(error)


def _as_in(first: tuple[TableAt, Choice] | None) -> str:
    return f"; {first[0].shown} has them in {display(first[1].where, 60)}" if first is not None else ""
