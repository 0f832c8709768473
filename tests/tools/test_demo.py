"""`cfbus demo`: real photographs, a table that fits the screen, and the same again when all is done."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cfbus.errors import UsageError
from cfbus.tools import demo
from cfbus.tools.demo import Caption


def test_the_photographs_are_there_and_are_copied_once(tmp_path: Path) -> None:
    folder = demo.photographs(tmp_path / "a" / "photographs")
    names = {path.name for path in folder.iterdir()}
    assert names == set(demo.PHOTOGRAPHS)
    assert set(demo.SHOWN) <= names
    (folder / "moon.png").write_bytes(b"mine")
    demo.photographs(folder)
    assert (folder / "moon.png").read_bytes() == b"mine"


def test_without_scikit_image_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UsageError) as caught:
        demo.photographs(tmp_path)
    assert "cfbus[demo]" in caught.value.hint


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        demo.photographs(tmp_path / "file" / "photographs")


def test_captions_come_in_the_order_of_the_pictures_and_slots(tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    columns = ["item_key", "slot", "caption", "model"]
    rows = [
        ("b.png", "detailed", "2", "m"),
        ("z.png", "short", "no", "m"),
        ("a.png", "short", "3", "m"),
        ("b.png", "short", "1", "m"),
        ("a.png", "another", "no", "m"),
    ]
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(columns)})
    pq.write_table(table, tmp_path / "captions" / "0.parquet")
    assert [caption.text for caption in demo.captions_of(tmp_path, ["b.png", "a.png"])] == ["1", "2", "3"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_the_screen_and_hides_nothing(width: int) -> None:
    said = io.StringIO()
    text = "Mostly blue, with [grey] at the top and \x1b[31m nothing else to be seen anywhere in it at all."
    captions = [Caption("moon.png", slot, text, "palette") for slot in ("short", "detailed")]
    demo.show(Console(file=said, width=width, highlight=False), captions)
    lines = said.getvalue().splitlines()
    assert all(len(line) <= min(width, demo.MAX_WIDTH) for line in lines)
    assert said.getvalue().count("moon.png") == 1
    words = " ".join(word for word in said.getvalue().split() if word.isascii())
    assert words.count("seen anywhere in it at all.") == 2 or width == 60
    assert "[grey]" in words
    assert "\x1b" not in said.getvalue()


def run_demo(out: Path) -> str:
    command = [sys.executable, "-m", "cfbus.tools.main", "demo", "--out", str(out)]
    environ = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def test_from_nothing_to_a_table_and_again(tmp_path: Path) -> None:
    first = run_demo(tmp_path / "demo")
    assert "26 captions written" in first
    again = run_demo(tmp_path / "demo")
    assert "Nothing to do: all 13 images" in again
    store = tmp_path / "demo" / "captions"
    for said in (first, again):
        assert "\x1b" not in said
        assert "\r" not in said
        assert all(name in said for name in demo.SHOWN)
        assert "not a vision-language model" in " ".join(said.split())
        assert f"{store}/captions/*.parquet" in said
        assert "cfbus run PICTURES" in said
    assert first[first.index("Captions:") :] == again[again.index("Captions:") :]
    rows = pq.read_table(store / "captions", columns=["item_key", "slot", "caption", "model"]).to_pylist()
    assert {(row["item_key"], row["slot"]) for row in rows} == {
        (name, slot) for name in demo.PHOTOGRAPHS for slot in demo.SLOTS
    }
    assert len(rows) == 26
    assert all("not a vision-language model" in row["model"] for row in rows), json.dumps(rows)[:500]
