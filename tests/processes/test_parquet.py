"""`cfbus run` on tables that `datasets` wrote: on this disk and from a hub; what is wrong with them ends in words."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.dataset as ds
import pytest
from coloured import COLOURS, png
from PIL import Image
from processes.support import Nursery, Run
from processes.tables import failures
from sources.hub_rig import FakeHub, cut, says, serving
from sources.tables_rig import table

NAMES = ["black", "white", "red", "green", "blue", "yellow"]
SLOT = ("--slot", "short=The main colour of {column:title}.")


def written(path: Path, first: int, count: int) -> None:
    """Pictures in one colour; their titles say which. Five rows in a row group."""
    colours = [NAMES[number % len(NAMES)] for number in range(first, first + count)]
    pictures = [Image.new("RGB", (64, 64), COLOURS[colour]) for colour in colours]
    cells = [{"bytes": png(picture), "path": None} for picture in pictures]
    titles = [f"{colour} {first + at}" for at, colour in enumerate(colours)]
    features = datasets.Features({"image": datasets.Image(), "title": datasets.Value("string")})
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({"image": cells, "title": titles}, features=features).to_parquet(path, batch_size=5)


def right(out: Path, count: int, set_name: str) -> None:
    """Each row of the tables has one caption, of its own picture."""
    rows = ds.dataset(out / "captions").to_table().to_pylist()
    seen = set()
    for row in rows:
        colour, number = json.loads(row["metadata"])["title"].split()
        assert colour in row["caption"].lower(), row["caption"]
        shard, at = divmod(int(number), 20)
        assert row["shard"] == f"{set_name}/data/train-{shard:05d}-of-00003.parquet"
        assert (int(row["item_key"]), row["item_index"]) == (at, at)
        picture = Image.open(io.BytesIO(png(Image.new("RGB", (64, 64), COLOURS[colour]))))
        file = io.BytesIO()
        picture.save(file, "PNG")
        assert row["image_sha256"] == hashlib.sha256(png(picture)).digest()
        seen.add(int(number))
    assert seen == set(range(count))
    assert len(rows) == count


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "colours"
    for number in range(3):
        written(folder / "data" / f"train-{number:05d}-of-00003.parquet", number * 20, 20)
    return folder


KEEP = ("--set", "dataset.keep_columns=[title]", *SLOT)


def test_every_row_gets_the_caption_of_its_own_picture(nursery: Nursery, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = Run(nursery, out, tables, "--source", "huggingface", *KEEP).command.ends(0)
    assert "60 captions written" in said
    right(out, 60, "colours")
    assert "Nothing to do: all 60 images" in Run(nursery, out).command.ends(0)


def test_a_feeder_serves_rows_with_their_columns(nursery: Nursery, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Run(nursery, out, tables, "--source", "huggingface", "--feeder", *KEEP).command.ends(0)
    right(out, 60, "colours")


def test_what_a_check_shows(nursery: Nursery, tables: Path, tmp_path: Path) -> None:
    config = tmp_path / "cfbus.yaml"
    config.write_text(f"dataset: {{paths: '{tables}/data/*.parquet', split: train, keep_columns: title}}\n")
    said = nursery.start("cfbus.tools.main", "check", config, "--json").ends(0)
    found = json.loads(said.splitlines()[-1])
    assert (found["items"], found["shards"], found["columns"]) == (60, 3, {"title": 20})
    assert json.loads(found["row"]["metadata"]) == {"title": "black 0"}


def test_parquet_files_need_no_more_words(nursery: Nursery, tables: Path, tmp_path: Path) -> None:
    out, files = tmp_path / "out", sorted((tables / "data").glob("*.parquet"))
    Run(nursery, out, *files, *SLOT).command.ends(0)
    rows = ds.dataset(out / "captions").to_table(columns=["shard", "item_index"]).to_pylist()
    assert {(row["shard"], row["item_index"]) for row in rows} == {
        (f"data/{file.name}", index) for file in files for index in range(20)
    }


@pytest.fixture
def fake(tables: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as hub:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
        hub.add("org/colours", {f"data/{file.name}": file.read_bytes() for file in (tables / "data").iterdir()})
        yield hub


def test_a_dataset_of_the_hub(nursery: Nursery, fake: FakeHub, tmp_path: Path) -> None:
    fake.faults["/resolve/"] = cut(2)
    out = tmp_path / "out"
    Run(nursery, out, "hf://org/colours", *KEEP).command.ends(0)
    right(out, 60, "org--colours")
    assert "hf_verysecret" not in "".join(path.read_text() for path in (out / "run" / "logs").glob("*"))
    # What the branch is now does not matter any more.
    fake.add("org/colours", {"data/train-00009-of-00010.parquet": b"x"}, "3" * 40)
    assert "Nothing to do: all 60 images" in Run(nursery, out).command.ends(0)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://org/nothing", "org/nothing: the hub has no dataset of this name"),
        ("hf://org/colours@v7", "it has no such revision"),
        ("hf://org", "this is no address of a dataset of the hub"),
        ("hf://org/gated", "Accept its terms at"),
        ("hf://org/code", "refs/convert/parquet"),
    ],
)
def test_what_the_hub_does_not_have_is_told_at_once(
    nursery: Nursery, fake: FakeHub, tmp_path: Path, address: str, words: str
) -> None:
    fake.add("org/code", {"load.py": b"x"})
    fake.faults["/org/gated"] = says(403, X_Error_Code="GatedRepo")
    said = Run(nursery, tmp_path / "out", address, *SLOT).command.ends(2)
    assert words in said
    assert not (tmp_path / "out" / "store.json").exists()


def test_bad_tables_and_rows_harm_nobody(nursery: Nursery, tables: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", tables / "data"
    whole = (data / "train-00002-of-00003.parquet").read_bytes()
    (data / "train-00002-of-00003.parquet").write_bytes(whole[:-50])
    table(data / "zz-other.parquet", {"picture": [b"x"], "title": ["t"]})
    good = png(Image.new("RGB", (64, 64), COLOURS["red"]))
    table(data / "rows.parquet", {"image": [good, None, b"<html>", good], "title": ["t", "t", "t", None]})
    said = Run(nursery, out, tables, "--source", "huggingface", *SLOT).command.ends(3)
    assert "3 images could not be captioned" in said
    assert "2 things that may hold images could not be listed" in said
    assert {row["item_key"]: row["reason"] for row in failures(out)} == {
        "1": "no-image", "2": "not-an-image", "3": "missing-column",
    }  # fmt: skip
    (data / "train-00002-of-00003.parquet").write_bytes(whole)
    assert "20 captions written" in Run(nursery, out).command.ends(3)
