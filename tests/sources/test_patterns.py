"""Patterns of files: braces, globs, folders; names that stay what they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfbus.errors import SourceError
from cfbus.sources import patterns
from cfbus.sources.base import LeftOut
from cfbus.sources.patterns import Patterns


def plant(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(*given: Path, left_out: LeftOut | None = None, follow_links: bool = False) -> list[str]:
    found = list(Patterns(given, follow_links=follow_links).files(left_out or LeftOut()))
    assert len({one.name for one in found}) == len({one.path for one in found}) == len(found)
    return [one.name for one in found]


def test_braces_stand_for_all_they_name(tmp_path: Path) -> None:
    root = plant(tmp_path / "d", "s-0008.tar", "train/x-1.tar")
    assert names(root / "s-{0008..0010}.tar") == ["d/s-0008.tar", "d/s-0009.tar", "d/s-0010.tar"]
    assert names(root / "{train,val}/x-*.tar") == ["d/train/x-1.tar"]


def test_globs_stand_for_what_is_there_in_order(tmp_path: Path) -> None:
    root = plant(tmp_path / "d", "b.tar", "a.tar", "a.tgz", "x.txt", ".c.tar", "e/f/g.tar", "a10.tar", "a9.tar")
    assert names(root / "*.tar") == ["d/a.tar", "d/a10.tar", "d/a9.tar", "d/b.tar"]
    assert names(root / "**" / "*.tar")[-1] == "d/e/f/g.tar"
    assert names(root / "nothing*.tar") == []


def test_a_folder_stands_for_the_tars_in_it(tmp_path: Path) -> None:
    root = plant(tmp_path / "d", "b.TAR", "a.tar.gz", "x.jpg", ".h/c.tar", "e/f/g.tgz", ".i.tar")
    assert names(root) == ["d/a.tar.gz", "d/b.TAR", "d/e/f/g.tgz"]
    (root / "e" / "loop").symlink_to("..")
    assert names(root, follow_links=True) == ["d/a.tar.gz", "d/b.TAR", "d/e/f/g.tgz"]
    assert names(root, follow_links=False) == ["d/a.tar.gz", "d/b.TAR", "d/e/f/g.tgz"]


def test_a_name_does_not_depend_on_what_else_is_there(tmp_path: Path) -> None:
    root = plant(tmp_path / "d", "s-1.tar", "s-2.tar", "s-3.tar")
    alone = names(root / "s-2.tar")
    assert alone == ["d/s-2.tar"]
    assert alone[0] in names(root / "*.tar")
    assert alone[0] in names(root)
    assert names(root / "s-3.tar", root / "s-1.tar", root / "*.tar") == ["d/s-3.tar", "d/s-1.tar", "d/s-2.tar"]


def test_roots_of_one_name_have_labels_of_their_own(tmp_path: Path) -> None:
    plant(tmp_path, "x/d/a.tar", "y/d/a.tar")
    assert names(tmp_path / "x/d/*.tar", tmp_path / "y/d/*.tar") == ["d/a.tar", "d.2/a.tar"]


def test_what_exists_as_it_is_written_is_no_pattern(tmp_path: Path) -> None:
    plant(tmp_path / "my[1]{2}", "a[0].tar", "a0.tar")
    assert names(tmp_path / "my[1]{2}" / "a[0].tar") == ["my_1__2_/a[0].tar"]
    assert names(tmp_path / "my[1]{2}") == ["my_1__2_/a0.tar", "my_1__2_/a[0].tar"]


def test_names_that_the_tables_cannot_hold_are_left_out(tmp_path: Path) -> None:
    root = plant(tmp_path / "d", "fine.tar", "line\nbreak.tar", "n" * 240 + "/" + "n" * 200 + ".tar")
    (root / os.fsdecode(b"odd\xff.tar")).touch()
    left_out = LeftOut()
    assert names(root, left_out=left_out) == ["d/fine.tar"]
    reasons = {thing.reason for thing in left_out.things}
    assert reasons == {
        "its name is not UTF-8, which the tables need",
        "its name has characters that cannot be shown",
        "its name has more than 400 bytes",
    }
    assert left_out.grave == 3


def test_too_many_files_are_refused_without_making_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(patterns, "MAX_FILES", 1000)
    for pattern in (
        "s-{0..1000}.tar",
        "s-{5..-999999999}.tar",
        "s-{0..99}{0..99}.tar",
        "s-{0..99999999999999999999}.tar",
    ):
        with pytest.raises(SourceError, match="more than 1000 files"):
            names(tmp_path / pattern)


def test_braces_that_make_no_sense_are_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="its braces cannot be read"):
        names(tmp_path / "s-{0..3.tar")
