"""`cfbus export`, read back by what people would use: duckdb, pandas, datasets, the csv module, webdataset, files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import pytest
import yaml
from exports.rig import Shop, call, newest, own, run

from cfbus.errors import EXIT_DONE, EXIT_NOTHING_FOUND, CfbusError, StoreInUseError, UsageError
from cfbus.exports import parts
from cfbus.exports.exporting import export
from cfbus.exports.log import FOLDER
from cfbus.exports.request import Format, Request
from cfbus.exports.tables import Tables


def by_duckdb(out: Path, kind: str) -> list[dict[str, Any]]:
    read = {"parquet": "read_parquet", "jsonl": "read_json", "csv": "read_csv"}[kind]
    with duckdb.connect() as connection:
        found = connection.sql(f"select * from {read}('{out}/captions-*.{kind}')").to_arrow_table()
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows


def by_pandas(out: Path, kind: str) -> list[dict[str, Any]]:
    read: Callable[..., pd.DataFrame] = {
        "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
        "csv": lambda path: pd.read_csv(path, keep_default_na=False),
    }[kind]
    frame = pd.concat([read(path) for path in sorted(out.glob(f"captions-*.{kind}"))])
    records: list[dict[str, Any]] = frame.to_dict("records")
    return records


def by_datasets(out: Path, kind: str) -> list[dict[str, Any]]:
    name = "json" if kind == "jsonl" else kind
    files = sorted(map(str, out.glob(f"captions-*.{kind}")))
    loaded = datasets.load_dataset(name, data_files=files, split="train", cache_dir=str(out / FOLDER / "hf"))
    return [dict(row) for row in loaded]


def by_python(out: Path, kind: str) -> list[dict[str, Any]]:
    if kind == "csv":
        with open(next(out.glob("*.csv")), newline="", encoding="utf-8") as file:
            return [dict(row) for row in csv.DictReader(file)]
    lines = next(out.glob("*.jsonl")).read_text().splitlines()
    return [json.loads(line) for line in lines]


READERS = [
    *((by_duckdb, kind) for kind in ("parquet", "jsonl", "csv")),
    *((by_pandas, kind) for kind in ("parquet", "jsonl", "csv")),
    *((by_datasets, kind) for kind in ("parquet", "jsonl", "csv")),
    *((by_python, kind) for kind in ("jsonl", "csv")),
]
readers = pytest.mark.parametrize(("read", "kind"), READERS)
Read = Callable[[Path, str], list[dict[str, Any]]]


@readers
def test_a_row_for_each_caption(shop: Shop, tmp_path: Path, read: Read, kind: str) -> None:
    out = tmp_path / "out"
    code, said = run(shop, out, kind, "--raw-csv")
    assert code == EXIT_DONE, said
    rows = read(out, kind)
    assert {(row["shard"], row["item_key"], row["slot"]): row["caption"] for row in rows} == newest(shop)
    assert len(rows) == len(newest(shop))
    order = [(row["shard"], row["item_key"], ("short", "long", "tags").index(row["slot"])) for row in rows]
    assert order == sorted(order)
    assert own(out) == ["CITATION.cff", "CONTRIBUTORS", f"captions-00000.{kind}"]


@readers
def test_a_row_for_each_image(shop: Shop, tmp_path: Path, read: Read, kind: str) -> None:
    code, said = run(shop, tmp_path / "out", kind, "--rows", "images", "--raw-csv")
    assert code == EXIT_DONE, said
    rows = read(tmp_path / "out", kind)
    assert len(rows) == 15
    found = {}
    for row in rows:
        for slot in ("short", "long", "tags"):
            text = row[f"{slot}.caption"] if kind == "csv" else (row["captions"][slot] or {}).get("caption")
            if text:
                found[row["shard"], row["item_key"], slot] = text
    assert found == newest(shop)


def test_texts_that_a_spreadsheet_takes_for_formulas(shop: Shop, tmp_path: Path) -> None:
    for number, more in enumerate(((), ("--rows", "images"))):
        out = tmp_path / str(number)
        assert run(shop, out, "csv", *more)[0] == EXIT_DONE
        for row in by_python(out, "csv"):
            for name, text in row.items():
                assert not text.startswith(("=", "+", "@", "\t", "\r", "\n", "\uff1d")), (name, text)
                assert not text.startswith("-"), (name, text)
    rows = {(row["shard"], row["item_key"], row["slot"]): row["caption"] for row in by_python(tmp_path / "0", "csv")}
    assert {key: text.removeprefix("'") for key, text in rows.items()} == newest(shop)
    assert {row["contributor_id"] for row in by_python(tmp_path / "0", "csv")} == {"ann", "bob", "'=cyd()"}


def test_what_is_asked_for(shop: Shop, tmp_path: Path) -> None:
    def rows(*options: str) -> list[dict[str, Any]]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        assert run(shop, out, "jsonl", *options)[0] == EXIT_DONE
        return by_python(out, "jsonl")

    assert {row["slot"] for row in rows("--slot", "tags", "--slot", "long")} == {"tags", "long"}
    assert {row["shard"] for row in rows("--shard", "*/b*")} == {"birds/b.tar"}
    assert [row["caption"] for row in rows("--where", "caption like 'again%'")] == ["again 3", "again 4"]
    assert rows("--columns", "caption,shard", "--limit", "1") == [{"caption": "=HYPERLINK(1)", "shard": "birds/a.tar"}]
    assert len(rows("--limit", "7")) == 7
    assert len(rows("--limit", "3", "--rows", "images")) == 3
    assert {row["revision"] for row in rows("--revision", "1")} == {1}
    old = {
        row["item_key"]: row["caption"] for row in rows("--revision", "2", "--slot", "short", "--shard", "birds/a.tar")
    }
    assert old["sub/03.jpg"] == "\u00fcn\u00efc\u00f6d\u00e9 \U0001f426"
    assert {row["slot"] for row in rows("--as-of", "2023-11-14T22:13:30Z")} == {"short", "long"}
    assert len(rows("--with-empty")) == len(newest(shop)) + 1
    full = rows("--columns", "timestamp,image_sha256,metadata,flags", "--limit", "1")
    assert full == [
        {
            "timestamp": "2023-11-14T22:13:20.000000Z",
            "image_sha256": "ab" * 32,
            "metadata": {"title": "=x"},
            "flags": [],
        }
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--where", "captoin = 'x'"), "captoin"),
        (("--where", "1 = 1) union select 1 --"), "--where"),
        (("--where", "caption in (select content from read_text('/etc/passwd'))"), "--where"),
        (("--slot", "shrot"), "Did you mean 'short'"),
        (("--shard", "birds/c.tar"), "has no shard"),
        (("--columns", "captoin"), "Did you mean caption"),
        (("--as-of", "yesterday"), "is no time"),
        (("--pseudonyms", "--columns", "worker"), "tells contributors apart"),
        (("--images", "."), "Only --format webdataset"),
    ],
)
def test_what_cannot_be_asked_for(shop: Shop, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    code, output = run(shop, tmp_path / "out", "jsonl", *options)
    assert code == UsageError.exit_code
    assert said in output
    assert not list((tmp_path / "out").glob("captions*"))


def test_nothing_found_is_an_exit_code(shop: Shop, tmp_path: Path) -> None:
    code, said = run(shop, tmp_path / "out", "csv", "--where", "caption = 'nowhere'")
    assert code == EXIT_NOTHING_FOUND
    assert "No caption is as it was asked for" in said
    assert own(tmp_path / "out") == []


def test_credits(shop: Shop, tmp_path: Path) -> None:
    run(shop, tmp_path / "names", "parquet")
    text = (tmp_path / "names" / "CONTRIBUTORS").read_text()
    assert text.splitlines()[2:] == [r'Ann "A" \x1b[31mRed: 28', "Bob: 14", "=cyd(): 2"]
    cited = yaml.safe_load((tmp_path / "names" / "CITATION.cff").read_text())
    assert [each["name"] for each in cited["authors"]] == [r'Ann "A" \x1b[31mRed', "Bob", "=cyd()"]
    assert cited["cff-version"] == "1.2.0"
    run(shop, tmp_path / "hidden", "parquet", "--pseudonyms")
    assert (tmp_path / "hidden" / "CONTRIBUTORS").read_text().splitlines()[2:] == [
        "contributor-1: 28", "contributor-2: 14", "contributor-3: 2"
    ]  # fmt: skip
    everything = b"".join(path.read_bytes() for path in (tmp_path / "hidden").rglob("*") if path.is_file())
    rows = by_duckdb(tmp_path / "hidden", "parquet")
    assert {row["contributor_id"] for row in rows} == {"contributor-1", "contributor-2", "contributor-3"}
    assert not {"key", "worker", "lease", "job_id"} & set(rows[0])
    assert b"cyd" not in everything


# Going on, and beside a run


class Killed(Exception):
    """Stands for a process that ends without a word."""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ITEMS", 4)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", [Format.JSONL, Format.TXT])
@pytest.mark.parametrize("die_at", [0, 1, 2, 3])
def test_cut_off_and_gone_on(
    shop: Shop, tmp_path: Path, kind: Format, die_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the store grows: the export stays that of the moment when it began."""
    out = tmp_path / "out"
    wanted = newest(shop)

    def until(behind: int, total: int, rows: int) -> None:
        if len(seen) == die_at:
            raise Killed
        seen.append(behind)

    seen: list[int] = []
    with pytest.raises(Killed):
        export(shop.store, out, Request(kind), overwrite=False, on_part=until)
    before = {path: (out / path).stat().st_ino for path in own(out)}
    shop.caption(0, 0, {"short": ["later"]})
    shop.seal()
    with pytest.raises(UsageError, match="another export, which was cut off"):
        call(shop, out, kind, where="true")
    outcome = call(shop, out, kind)
    assert outcome.resumed
    assert outcome.tally.written == len(wanted)
    assert {path: (out / path).stat().st_ino for path in before} == before, "nothing was written twice"
    if kind is Format.JSONL:
        rows = by_duckdb(out, "jsonl")
        assert {(row["shard"], row["item_key"], row["slot"]): row["caption"] for row in rows} == wanted
        assert len(rows) == len(wanted)
    again = call(shop, out, kind)
    assert not again.resumed
    assert again.tally.kept == (1 if kind is Format.TXT else 0), "a text that has changed lies behind the old one"
    if kind is Format.JSONL:
        assert {row["caption"] for row in by_duckdb(out, "jsonl")} >= {"later"}


@pytest.mark.usefixtures("small_parts")
def test_killed_between_a_file_and_its_line(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Tables.write

    def write_and_die(self: Tables, *given: Any) -> Any:
        real(self, *given)
        raise Killed

    monkeypatch.setattr(Tables, "write", write_and_die)
    with pytest.raises(Killed):
        call(shop, tmp_path / "out", Format.CSV)
    monkeypatch.setattr(Tables, "write", real)
    log = tmp_path / "out" / FOLDER / "csv.jsonl"
    log.write_bytes(log.read_bytes() + b'{"part": 7, "ta')
    assert call(shop, tmp_path / "out", Format.CSV).tally.written == len(newest(shop))
    assert len(by_duckdb(tmp_path / "out", "csv")) == len(newest(shop))


def test_a_file_of_somebody_else_is_never_replaced(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "captions-00000.csv").write_text("mine")
    (out / "CITATION.cff").write_text("mine")
    with pytest.raises(UsageError, match="not of this export"):
        call(shop, out, Format.CSV)
    assert (out / "captions-00000.csv").read_text() == "mine"
    call(shop, out, Format.CSV, overwrite=True)
    assert (out / "captions-00000.csv").read_text() != "mine"


def test_a_smaller_export_takes_the_rest_of_the_larger_away(shop: Shop, tmp_path: Path, small_parts: None) -> None:
    call(shop, tmp_path / "out", Format.CSV)
    assert len(list((tmp_path / "out").glob("*.csv"))) > 1
    call(shop, tmp_path / "out", Format.CSV, limit=1)
    assert own(tmp_path / "out") == ["CITATION.cff", "CONTRIBUTORS", "captions-00000.csv"]


def test_two_at_once_and_into_the_store(shop: Shop, tmp_path: Path) -> None:
    def other(*_: int) -> None:
        with pytest.raises(StoreInUseError):
            call(shop, tmp_path / "out", Format.CSV)

    export(shop.store, tmp_path / "out", Request(Format.CSV), overwrite=False, on_part=other)
    with pytest.raises(UsageError, match="lies in the store"):
        call(shop, shop.root / "captions", Format.CSV)


@pytest.mark.parametrize("at", [0, 2])
def test_a_damaged_segment_is_told(shop: Shop, tmp_path: Path, at: int) -> None:
    path = sorted((shop.root / "captions").iterdir())[at]
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(CfbusError) as raised:
        call(shop, tmp_path / "out", Format.PARQUET)
    assert raised.value.exit_code == 74
