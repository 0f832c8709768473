"""`cfbus view` as a person types it: the one file, and what it refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from gallery.rig import Shelf, fill, shelf

from cfbus.tools.view import PASSWORD_VARIABLE, command


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Shelf]:
    with shelf(tmp_path) as made:
        fill(made)
        yield made


def told(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(command, [str(argument) for argument in arguments])


def test_one_file(filled: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "grid.html"
    said = told(filled.store.root, "--images", filled.pictures, "--html", path, "--limit", "30", "--search", "bird")
    assert said.exit_code == 0, said.output
    assert "30 items are in" in said.output
    assert "a bird 10 short" in path.read_text()


def test_pictures_that_were_moved_to_a_folder_with_an_odd_name(filled: Shelf, tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" #c: \\d'
    odd.mkdir()
    moved = filled.pictures.rename(odd / filled.pictures.name)
    path = tmp_path / "grid.html"
    said = told(filled.store.root, "--images", moved, "--html", path)
    assert said.exit_code == 0, said.output
    assert "<img" in path.read_text().replace("&lt;img", "")


def test_one_file_without_pictures(filled: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "grid.html"
    assert told(filled.store.root, "--html", path).exit_code == 0
    assert "<img" not in path.read_text().replace("&lt;img", "")


def test_nothing_for_one_file(filled: Shelf, tmp_path: Path) -> None:
    said = told(filled.store.root, "--html", tmp_path / "grid.html", "--slot", "none")
    assert (said.exit_code, "no such caption" in said.output) == (2, True), said.output
    assert not (tmp_path / "grid.html").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "bus.example.org"])
def test_others_need_a_password(filled: Shelf, host: str) -> None:
    said = told(filled.store.root, "--host", host)
    assert said.exit_code == 2, said.output
    assert "can be reached by others" in said.output
    assert "ssh -L" in said.output


def test_a_short_password(filled: Shelf) -> None:
    said = told(filled.store.root, **{PASSWORD_VARIABLE: "short"})
    assert (said.exit_code, "less than 8 characters" in said.output) == (2, True), said.output
    assert "short" not in said.output.replace("a shorter", "")


def test_a_port_that_is_taken(filled: Shelf) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = told(filled.store.root, "--port", str(taken.getsockname()[1]))
    assert (said.exit_code, "cannot be listened on" in said.output) == (75, True), said.output


def test_no_store(tmp_path: Path) -> None:
    said = told(tmp_path)
    assert (said.exit_code, "There is no store" in said.output) == (2, True), said.output
