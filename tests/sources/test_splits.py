"""Configurations and splits, by cards and by paths; and that they are those of `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets.data_files import DataFilesDict, get_data_patterns

from cfbus.errors import SourceError
from cfbus.sources.splits import in_split, matches, selected, split_of


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00010.parquet", "train"),
        ("data/gold-00000-of-00001-a1b2c3d4e5f6.parquet", "gold"),
        ("data/train.extra-00000-of-00001.parquet", "train.extra"),
        ("test.parquet", "test"),
        ("data/my_val_file.parquet", "validation"),
        ("dev/0.parquet", "validation"),
        ("evaluation/x/0.parquet", "test"),
        ("default/train/0000.parquet", "train"),
        ("default/partial-train/0000.parquet", "train"),
        ("default/gold/0000.parquet", "gold"),
        ("0000.parquet", "train"),
        ("contest.parquet", "train"),
        ("a/b.parquet", "train"),
    ],
)
def test_the_split_of_a_path(path: str, split: str) -> None:
    assert split_of(path) == split
    assert in_split(path, split)
    assert in_split(path, "")
    assert not in_split(path, "other")


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/gold-00000-of-00001.parquet"],
        ["train.parquet", "test.parquet", "dev.parquet"],
        ["train/a.parquet", "train/b.parquet", "val/c.parquet"],
        ["my_train_file.parquet", "my_eval_file.parquet"],
        ["a.parquet", "b.parquet"],
    ],
)
def test_splits_are_those_of_the_library(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    found = DataFilesDict.from_patterns(get_data_patterns(str(tmp_path)), base_path=str(tmp_path))
    theirs = {str(Path(file).relative_to(tmp_path)): str(split) for split, files in found.items() for file in files}
    assert {name: split_of(name) for name in names} == theirs


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("data", "data/a.parquet", "data2/a.parquet"),
        ("data/*.parquet", "data/a.parquet", "other/a.parquet"),
        ("./data/**/*.parquet", "data/a.parquet", "a.parquet"),
        ("**/train-*", "x/y/train-1", "x/test-1"),
        ("a?.parquet", "ab.parquet", "a.parquet"),
        ("", "anything", None),
    ],
)
def test_patterns(pattern: str, yes: str, no: str | None) -> None:
    assert matches(yes, pattern)
    assert no is None or not matches(no, pattern)


PATHS = ["a/train-00000-of-00001.parquet", "a/test-00000-of-00001.parquet", "b/x.parquet"]


@pytest.mark.parametrize(
    ("card", "config", "split", "found"),
    [
        ({}, "", "", PATHS),
        ({}, "a", "", PATHS[:2]),
        ({}, "default", "", PATHS),
        ({}, "", "test", [PATHS[1]]),
        ({"configs": "nonsense"}, "", "", PATHS),
        ({"configs": [7, {"config_name": "c"}]}, "", "", PATHS),
        ({"configs": [{"config_name": "c", "data_files": "b/*"}]}, "", "", [PATHS[2]]),
        ({"configs": [{"config_name": "c", "data_dir": "a"}]}, "", "train", [PATHS[0]]),
        ({"configs": [{"config_name": "c", "data_dir": "a", "data_files": ["test*"]}]}, "", "", [PATHS[1]]),
        ({"configs": [{"config_name": "c", "data_files": {"g": ["b/x.parquet"], "t": "a/*"}}]}, "", "g", [PATHS[2]]),
        (
            {"configs": [{"config_name": "c", "data_files": "a"}, {"config_name": "default", "data_files": "b"}]},
            "", "", [PATHS[2]],
        ),
    ],
)  # fmt: skip
def test_what_is_selected(card: dict[str, Any], config: str, split: str, found: list[str]) -> None:
    assert selected(PATHS, card, config, split, "the set") == sorted(found)


@pytest.mark.parametrize(
    ("card", "config", "split", "words"),
    [
        ({}, "zzz", "", "no configuration zzz"),
        ({}, "", "zzz", r"no split zzz \(its splits: test, train\)"),
        ({"configs": [{"config_name": "c", "data_files": "b"}]}, "d", "", r"no configuration d \(there are c\)"),
        (
            {"configs": [{"config_name": "c", "data_files": "b"}, {"config_name": "d", "data_files": "b"}]},
            "", "", r"several configurations \(c, d\)",
        ),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(card: dict[str, Any], config: str, split: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        selected(PATHS, card, config, split, "the set")


def test_a_card_of_any_depth_is_no_crash() -> None:
    for wrap in (lambda inner: {"a": inner}, lambda inner: [inner], lambda inner: {"path": inner}):
        files: object = "a.parquet"
        for _ in range(5000):
            files = wrap(files)
        card = {"configs": [{"config_name": "a", "data_files": files}]}
        assert selected(["a.parquet"], card, "", "", "set") == []
