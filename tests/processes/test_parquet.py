"""`cfbus run` on parquet files that `datasets` wrote: each caption is its own row's."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from PIL import Image
from processes.support import Nursery, Run

import cfbus

COLOURS = {"red": (210, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 200)}


def picture(name: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), COLOURS[name]).save(out, "JPEG")
    return out.getvalue()


def write(path: Path, names: list[str]) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "name": datasets.ClassLabel(names=list(COLOURS)), "note": datasets.Value("string")}
    )
    rows = {
        "image": [{"bytes": picture(name), "path": None} for name in names],
        "name": names,
        "note": [f"row {number}" for number in range(len(names))],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path), batch_size=7)
    assert pq.ParquetFile(path).metadata.num_row_groups > 1


def test_each_row_gets_its_own_caption(nursery: Nursery, tmp_path: Path) -> None:
    names = [list(COLOURS)[number % 3] for number in range(40)]
    write(tmp_path / "set" / "train-00000-of-00002.parquet", names)
    write(tmp_path / "set" / "train-00001-of-00002.parquet", names[::-1])
    out = tmp_path / "out"
    columns = ["--slot", "short=A {column:name}: {column:note}", "--set", "dataset.keep_columns=*"]
    run = Run(nursery, out, tmp_path / "set", "--source", "huggingface", *columns)
    run.command.ends(0)
    rows = cfbus.open(out).dataset().to_table().to_pylist()
    assert len(rows) == 80
    for row in rows:
        expected = (names if row["shard"].endswith("00000-of-00002.parquet") else names[::-1])[row["item_index"]]
        kept = json.loads(row["metadata"])
        assert kept == {"name": expected, "note": f"row {row['item_index']}"}
        assert expected in row["caption"], row
