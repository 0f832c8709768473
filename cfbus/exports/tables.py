"""Tables: parquet, JSON lines, CSV; a file for each part, written by duckdb.

Knows columns and formats, not which rows they are of. Invariant: a file has its name only when it is whole and
durable, and never that of a file that somebody else made.

People open CSV in spreadsheets, and those take a text that begins with ``=`` for a formula; captions and keys
come from strangers. So such texts get a ``'`` before them, and texts that begin with one get another: to read
what was written, take one leading ``'`` away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfbus.errors import UsageError
from cfbus.exports.locked import text
from cfbus.exports.log import Log, Tally
from cfbus.exports.parts import Part
from cfbus.exports.request import Format, Request
from cfbus.exports.selection import Selection, columns_sql, name
from cfbus.logs import display
from cfbus.store.durable import replace_file

_OPTIONS = {
    Format.PARQUET: "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 100000",
    Format.JSONL: "FORMAT json",
    Format.CSV: "FORMAT csv, HEADER true",
}
FORMULA = r"^[=+\-@\t\r\n''\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
"""How texts begin that a spreadsheet may take for more than text (four are wide forms), or that were marked as such;
as SQL writes it."""


class Tables:
    """Writes parts as files ``captions-<part>.<format>`` of a folder."""

    def __init__(self, request: Request, out: Path, work: Path, log: Log, *, overwrite: bool) -> None:
        self._request = request
        self._out = out
        self._work = work
        self._log = log
        self._overwrite = overwrite

    def write(self, selection: Selection, part: Part, rows: int) -> Tally:
        """The part that ``selection`` has loaded."""
        if rows == 0:
            return Tally()
        file = f"captions-{part.number:05d}.{self._request.format}"
        staged = self._work / file
        query = self._by_image(selection.slots) if self._request.by_image else self._by_caption()
        options = _OPTIONS[self._request.format]
        selection.connection.execute(f"COPY ({query}) TO {text(staged)} ({options})")
        claim(self._out / file, file, self._log, overwrite=self._overwrite)
        replace_file(staged, self._out / file)
        return Tally(written=rows)

    def _by_caption(self) -> str:
        columns = self._expressions(self._request.columns_of_rows())
        chosen = ", ".join(f"{self._safe(sql, one)} AS {name(one)}" for one, sql in columns.items())
        return f"SELECT {chosen} FROM rows"  # noqa: S608 - names that were checked

    def _by_image(self, slots: Sequence[str]) -> str:
        of_image, of_slot = self._request.columns_of_images()
        items = {one: f"any_value({sql})" for one, sql in self._expressions(of_image).items()}
        chosen = [f"{self._safe(sql, one)} AS {name(one)}" for one, sql in items.items()]
        chosen += self._flat(slots, of_slot) if self._request.format is Format.CSV else [self._nested(slots, of_slot)]
        return f"SELECT {', '.join(chosen)} FROM rows GROUP BY number, item_index ORDER BY number, item_index"  # noqa: S608

    def _nested(self, slots: Sequence[str], columns: Sequence[str]) -> str:
        fields = ", ".join(f"{name(one)}: {sql}" for one, sql in self._expressions(columns).items())
        of_slots = ", ".join(f"{name(slot)}: any_value({{{fields}}}) FILTER (slot = {text(slot)})" for slot in slots)
        return f"{{{of_slots}}} AS captions"

    def _flat(self, slots: Sequence[str], columns: Sequence[str]) -> list[str]:
        return [
            f"{self._safe(f'any_value({sql}) FILTER (slot = {text(slot)})', one)} AS {name(f'{slot}.{one}')}"
            for slot in slots
            for one, sql in self._expressions(columns).items()
        ]

    def _expressions(self, columns: Sequence[str]) -> dict[str, str]:
        texts = self._request.format is not Format.PARQUET
        found = columns_sql(columns, pseudonyms=self._request.pseudonyms, texts=texts)
        if self._request.format is Format.CSV and "flags" in found:
            found["flags"] = "array_to_string(flags, ' ')"
        if self._request.format is Format.JSONL and "metadata" in found:
            found["metadata"] = "CASE WHEN json_valid(metadata) THEN metadata::JSON END"
        return found

    def _safe(self, sql: str, column: str) -> str:
        """As a spreadsheet takes it for text. Numbers need nothing: they are not anybody's words."""
        if self._request.format is not Format.CSV or self._request.raw_csv or column not in _TEXTS:
            return sql
        return f"CASE WHEN regexp_matches({sql}, '{FORMULA}') THEN '''' || {sql} ELSE {sql} END"


_TEXTS = frozenset(
    (
        "job_id", "dataset", "shard", "item_key", "caption", "contributor_id", "slot", "stage", "prompt_id", "variant",
        "spec", "model", "model_revision", "engine", "finish_reason", "worker", "key", "lease", "check_state",
        "image_format", "url", "filename", "metadata", "flags",
    )
)  # fmt: skip


def claim(path: Path, shown: str, log: Log, *, overwrite: bool) -> None:
    """Before a file gets its name: nobody else's may have it."""
    if not log.is_ours(shown) and not overwrite and (path.exists() or path.is_symlink()):
        raise UsageError(
            f"{display(str(path))} is there and is not of this export.",
            "Name another folder, or replace it with --overwrite.",
        )
    log.announce(shown)
