"""How `make bench` keeps figures, and what it says of a part that nobody knows."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from benchmarks import bench
from benchmarks.figures import Ends
from benchmarks.made_up import MACHINE


def test_figures_are_kept_whole_again_and_again(tmp_path: Path) -> None:
    job = bench.Job(argparse.Namespace(), tmp_path, tmp_path / "figures.json")
    for load in (1.0, 2.0):
        report = Ends(when="now", machine=MACHINE, load=load, simulated=[], real=[])
        job.keep(report)
        assert Ends.model_validate_json(job.path.read_text("utf-8")) == report
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_pattern_that_fits_nothing_names_all_that_it_could(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--parts", "captionflow", "--cases", "none"])
    said = capsys.readouterr().err
    assert "speed/folder/1-worker/3-prompts/no-tls" in said
    assert "kill/tars/server-int" in said


def test_each_part_has_its_place_in_the_page() -> None:
    page = bench.PAGE.read_text("utf-8")
    for name in bench.PARTS:
        assert page.count(f"<!-- {name}: begin -->") == page.count(f"<!-- {name}: end -->") == 1
