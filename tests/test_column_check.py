"""Columns that prompts need are looked for before anything is leased."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from random import Random

import pytest
from coloured import draw, png

from cfbus.column_check import check_columns
from cfbus.config import Config
from cfbus.errors import ConfigError

SLOT = {"slots": {"said": "A picture called {col:title}."}}


def settings(path: Path, source: str, **captions: object) -> Config:
    return Config.model_validate({"dataset": {"paths": [path], "source": source}, "captions": {**SLOT, **captions}})


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    image = png(draw(Random(1))[0])
    with tarfile.open(path, "w") as packed:
        for number in range(8):
            for suffix, data in (("png", image), ("json", json.dumps({"titel": "x", "n": number}).encode())):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
    return path


def test_folders_have_no_columns(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"slots\.said: its prompt needs the column 'title', and images in folders"):
        check_columns(settings(tmp_path, "folder"))


def test_a_column_that_no_sample_has_is_told_with_the_nearest(tar: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_columns(settings(tar, "webdataset"))
    assert "none of the first items has (they have n, titel; did you mean titel?)" in caught.value.message
    assert "captions.missing_column" in caught.value.hint


@pytest.mark.parametrize("policy", ["empty", "skip"])
def test_where_it_may_be_missing_nothing_is_said(tmp_path: Path, policy: str) -> None:
    check_columns(settings(tmp_path, "folder", missing_column=policy))


def test_what_is_there_or_cannot_be_read_here_is_no_error(tar: Path, tmp_path: Path) -> None:
    check_columns(settings(tar, "webdataset", slots={"said": "{col:titel} {column: n }"}))
    check_columns(settings(tmp_path / "elsewhere" / "b.tar", "webdataset"))
    check_columns(settings(tmp_path, "folder", slots={"plain": "No {title} here."}))


def test_of_a_list_of_addresses_nothing_is_downloaded(tmp_path: Path) -> None:
    """The host of the address does not exist; its columns are known all the same."""
    (tmp_path / "a.csv").write_text("url,titel\nhttp://nowhere.invalid/a.jpg,x\n")
    check_columns(settings(tmp_path / "a.csv", "urls", slots={"said": "{col:titel} {col:url}"}))
    with pytest.raises(ConfigError, match=r"they have titel, url; did you mean titel\?"):
        check_columns(settings(tmp_path / "a.csv", "urls"))
