"""What the tests of exports share: how an export is called, and what must come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from click.testing import CliRunner

from cfbus.exports.exporting import Outcome, export
from cfbus.exports.log import FOLDER
from cfbus.exports.request import Format, Request
from cfbus.store.folder import Store
from cfbus.tools.export import command

Key = tuple[str, str, str]


class Shop(Protocol):
    store: Store
    wrote: dict[Key, str]
    root: Path

    def caption(self, shard: int, start: int, texts: dict[str, list[str]], **more: object) -> None: ...
    def seal(self) -> None: ...


def newest(shop: Shop, **more: str) -> dict[Key, str]:
    return {key: text for key, text in shop.wrote.items() if text}


def run(shop: Shop, out: Path, kind: str, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, [str(shop.root), str(out), "--format", kind, *options])
    return done.exit_code, done.output + done.stderr


def call(shop: Shop, out: Path, kind: Format, overwrite: bool = False, **more: Any) -> Outcome:
    request = Request(kind, **more)
    return export(shop.store, out, request, overwrite=overwrite, on_part=lambda *_: None)


def own(out: Path) -> list[str]:
    """All files below but those in the hidden folder."""
    found = (path for path in out.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return sorted(str(path.relative_to(out)) for path in found)
