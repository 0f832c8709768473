"""Who wrote what was exported: CONTRIBUTORS for people, CITATION.cff for machines.

Knows names and counts. Names are those of the store's table of contributors; they come from strangers and are
written as harmless lines. Invariant: a file that a person wrote is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from cfbus.exports.log import FOLDER, Log
from cfbus.logs import display
from cfbus.store.durable import new_file, publish
from cfbus.store.folder import Store

NAME = 200


def names(store: Store) -> dict[str, str]:
    """What contributors are called, by their ids, as of the last snapshot."""
    path = store.snapshot_path("contributors")
    if not path.is_file():
        return {}
    with pq.ParquetFile(path) as file:
        rows = file.read(columns=["contributor_id", "name"]).to_pylist()
    return {row["contributor_id"]: row["name"] for row in rows}


def pseudonyms(counted: Mapping[str, int]) -> dict[str, str]:
    """A number for each, the one with the most captions first."""
    ranked = sorted(counted, key=lambda who: (-counted[who], who))
    return {who: f"contributor-{number}" for number, who in enumerate(ranked, 1)}


def write(out: Path, store: Store, log: Log, called: Mapping[str, str], *, overwrite: bool) -> None:
    """Both files, of all that the log has counted. ``called`` are names, or nothing for pseudonyms."""
    ranked = sorted(log.credits.items(), key=lambda one: (-one[1], one[0]))
    shown = [(display(called.get(who, who), NAME), count) for who, count in ranked]
    dataset = display(store.dataset, NAME)
    lines = [f"The captions of {dataset} were contributed by:", "", *(f"{who}: {count:,}" for who, count in shown)]
    _place(out, "CONTRIBUTORS", "\n".join(lines), log, overwrite=overwrite)
    authors = [who for who, _ in shown] or ["unknown"]
    cff = [
        "cff-version: 1.2.0",
        'message: "If you use these captions, please cite them as below."',
        "type: dataset",
        f"title: {_quoted(f'Captions of {dataset}')}",
        "authors:",
        *(f"  - name: {_quoted(who)}" for who in authors),
    ]
    _place(out, "CITATION.cff", "\n".join(cff), log, overwrite=overwrite)


def _quoted(text: str) -> str:
    """A text of YAML in double quotes. ``display`` has left nothing in it that YAML writes otherwise than JSON."""
    return json.dumps(text, ensure_ascii=False)


def _place(out: Path, name: str, content: str, log: Log, *, overwrite: bool) -> None:
    path = out / name
    if not log.is_ours(name) and not overwrite and (path.exists() or path.is_symlink()):
        return
    log.announce(name)
    staged = out / FOLDER / f"{name}.new"
    with new_file(staged) as file:
        file.write(content.encode() + b"\n")
    publish(staged, path)
