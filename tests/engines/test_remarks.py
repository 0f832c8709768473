"""Remarks on captions: what is said of them, and that ordinary ones get none."""

from __future__ import annotations

import pytest

from cfbus.bus.columns import FLAGS
from cfbus.engines.remarks import flags_of, repeats


def words(text: str, reason: str = "stop") -> set[str]:
    bits = flags_of(text, reason)
    return {name for at, name in enumerate(FLAGS) if bits >> at & 1}


@pytest.mark.parametrize(
    ("text", "reason", "remarks"),
    [
        ("A red square on a blue ground.", "stop", set()),
        ("", "stop", {"empty"}),
        (" \n\t", "length", {"empty", "truncated"}),
        ("A man on a", "length", {"truncated"}),
        ("I'm sorry, but I can't help with that.", "stop", {"refused"}),
        ("I\u2019m sorry, I cannot describe it.", "stop", {"refused"}),
        ("I cannot identify people.", "stop", {"refused"}),
        ("As an AI, I do not see.", "stop", {"refused"}),
        ("A sign that says: I'm sorry.", "stop", set()),
        ("I can see a dog.", "stop", set()),
        ("Sorry sight: a wet dog.", "stop", set()),
        ("a tree, " * 40, "length", {"truncated", "repeated"}),
        ("!" * 100, "stop", {"repeated"}),
        ("ha ha ha ha", "stop", set()),
        ("very, very, very dark", "stop", set()),
    ],
)
def test_what_is_remarked(text: str, reason: str, remarks: set[str]) -> None:
    assert words(text, reason) == remarks


def test_long_texts_are_looked_at_quickly_and_only_at_their_end() -> None:
    assert not repeats("ab" * 5000 + " and then it ends in another way.")
    assert repeats("It begins well. " + "x y z, " * 5000)
    assert repeats("A long unit that is said again and again until the end of it all. " * 9)
