"""What the comparison's own parts do, without the other program."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from benchmarks import stub_model, versus, versus_tables
from benchmarks.versus_figures import Kill
from benchmarks.versus_setup import Generated

KILL = Kill(
    side="a", what="all", source="tars", round=1, images=10, generated=10, rows=10, doubled=0, missing=0, again=0,
    seconds=1.0,
)  # fmt: skip


def test_the_stub_writes_other_texts_of_equal_length() -> None:
    texts = {stub_model.text() for _ in range(50)}
    assert len(texts) == 50
    assert {len(text) for text in texts} == {stub_model.CHARS}


def test_what_was_generated_is_known_by_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    generated = Generated(log)
    assert generated.look() == 0
    log.write_text("10.0 8\n11.0 8\n12.0")
    assert generated.look() == 16
    with log.open("a") as more:
        more.write("5 4\n")
    assert generated.look() == 20
    assert [generated.when(count) for count in (1, 8, 9, 20)] == [10.0, 10.0, 11.0, 12.05]
    assert generated.when(21) == float("inf")


def test_images_lie_in_a_folder_and_in_tars_alike(tmp_path: Path) -> None:
    versus.make_images(tmp_path, 10)
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    inside: list[str] = []
    for path in sorted((tmp_path / "tars").iterdir()):
        with tarfile.open(path) as tar:
            inside += tar.getnames()
    assert inside == names
    assert len(names) == 10


@pytest.mark.parametrize(
    ("missing", "hand", "shown"),
    [
        (0, "", "none"),
        (7, "", "nothing helps"),
        (7, "`mend`", "`mend`; then 0 never done"),
    ],
)
def test_a_hand_is_told_when_one_was_needed(missing: int, hand: str, shown: str) -> None:
    kill = KILL.model_copy(update={"missing": missing, "hand": hand, "missing_after_hand": 0 if hand else None})
    assert versus_tables.hand(kill) == shown
