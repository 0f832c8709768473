"""Members become items as webdataset groups them, and what it would drop or raise at becomes a dead letter."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.tar_rig import make_tar

from cfbus.sources.base import ReadReason
from cfbus.sources.suffixes import is_picture
from cfbus.sources.tar_members import Member, members
from cfbus.sources.tar_samples import MAX_COLUMN_MEMBERS, MAX_KEY_BYTES, Locator, Part, Sampling

os.environ["WDS_VERBOSE_CACHE"] = "0"


def by_library(path: Path) -> list[dict[str, Any]]:
    """The samples of a tar as the webdataset library makes them, by its own functions, on a file that is open. At a
    doubled member it would raise; told to go on, it keeps the first and marks nothing, so it is marked here."""
    doubled: list[str] = []

    def go_on(error: Exception) -> bool:
        doubled.append(str(error))
        return True

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from webdataset.tariterators import group_by_keys, tar_file_expander
    streams = [{"url": "x", "stream": io.BytesIO(path.read_bytes())}]
    samples = []
    for sample in group_by_keys(tar_file_expander(streams, eof_value={}), handler=go_on):
        samples.append(sample | {"doubled": bool(doubled)})
        doubled.clear()
    return samples


def member(name: str, offset: int = 512, kind: str = "") -> Member:
    return Member(name.encode(), offset, 1, 7, kind)


def sampled(*names: str | Member, image: str = "") -> list[tuple[str, Locator]]:
    found = [each if isinstance(each, Member) else member(each, 512 * n + 512) for n, each in enumerate(names)]
    return list(Sampling(image).samples(found))


PIECE = st.sampled_from(["a", "b", "a.b", "x/a", "x.y/a", "__m__", "é", " ", "A"])
SUFFIX = st.sampled_from(["jpg", "JPG", "png", "json", "seg.png", "txt", "cls", "npy", ""])
NAMES = st.tuples(PIECE, SUFFIX).map(lambda both: f"{both[0]}.{both[1]}" if both[1] else both[0])


@settings(max_examples=300, deadline=None)
@given(names=st.lists(NAMES, max_size=12))
def test_the_grouping_is_that_of_the_library(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = make_tar(tmp_path_factory.getbasetemp() / "g.tar", [(name, str(n).encode()) for n, name in enumerate(names)])
    data = path.read_bytes()
    found = list(Sampling().samples(members(path)))
    library = by_library(path)
    with_image = [sample for sample in library if any(is_picture(b"x." + name.encode()) for name in sample)]
    assert [key for key, _ in found] == [sample["__key__"] for sample in with_image]
    for (_, locator), sample in zip(found, with_image, strict=True):
        assert (locator.reason is ReadReason.DOUBLED) == sample["doubled"]
        for part in locator.parts:
            assert data[part.offset : part.offset + part.size] == sample[part.suffix]
        assert [part.suffix for part in locator.parts[1:]] == [
            name for name in sample if name.rpartition(".")[2] in ("json", "txt", "cls") and locator.parts
        ]


def test_the_image_is_the_plain_one_or_the_one_that_was_named() -> None:
    names = ["a.seg.png", "a.jpg", "a.webp", "a.json", "b.depth.png", "b.txt", "c.npy"]
    assert [(key, loc.parts[0].suffix) for key, loc in sampled(*names)] == [("a", "jpg"), ("b", "depth.png")]
    assert [(key, loc.parts[0].suffix) for key, loc in sampled(*names, image="webp")] == [("a", "webp")]
    both = sampled(*names, image=" .SEG.png; depth.png ")
    assert [(key, loc.parts[0].suffix) for key, loc in both] == [("a", "seg.png"), ("b", "depth.png")]


def test_what_is_passed_over_is_counted() -> None:
    sampling = Sampling()
    names = ["a.json", "b.jpg", "noext", "__meta__/x.jpg", "__m__", ".hidden", "c.txt"]
    found = list(sampling.samples([member(name) for name in names]))
    assert [key for key, _ in found] == ["b"]
    assert (sampling.without_image, sampling.nameless) == (2, 4)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("../../x.jpg", "leads out"), ("a/../b.jpg", "leads out"), ("/etc/x.jpg", "leads out"),
        ("k" * (MAX_KEY_BYTES + 1) + ".jpg", "more than 1024 bytes"), ("k." + "s" * 200 + ".jpg", "too long"),
    ],
)  # fmt: skip
def test_an_odd_name_is_a_dead_letter_and_its_neighbours_are_not(name: str, detail: str) -> None:
    found = sampled("a0.jpg", name, "z.jpg")
    assert [locator.reason is None for _, locator in found] == [True, False, True]
    assert detail in found[1][1].detail
    assert len(found[1][0].encode()) <= MAX_KEY_BYTES + 3


def test_a_link_or_device_for_an_image_is_a_dead_letter() -> None:
    found = sampled(member("a.jpg", kind="a link"), "a.json", "b.jpg", member("b.png", kind="a link"), "c.jpg")
    assert [(key, locator.detail) for key, locator in found] == [
        ("a", "It is a link in the tar, not a file."),
        ("b", ""),
        ("c", ""),
    ]
    assert sampled(member("a.json", kind="a device"), "b.jpg")[0][0] == "b"


def test_a_doubled_member_is_a_dead_letter() -> None:
    ((key, locator), (other, fine)) = sampled("a.jpg", "a.JPG", "b.jpg")
    assert (key, locator.reason, other, fine.reason) == ("a", ReadReason.DOUBLED, "b", None)
    assert "both with .jpg" in locator.detail


def test_a_key_may_come_again_later() -> None:
    assert [key for key, _ in sampled("a.jpg", "b.jpg", "a.jpg")] == ["a", "b", "a"]


def test_columns_are_bounded() -> None:
    ((_, locator),) = sampled("a.jpg", *(f"a.{n}.txt" for n in range(2 * MAX_COLUMN_MEMBERS)))
    assert len(locator.parts) == 1 + MAX_COLUMN_MEMBERS
    assert Locator.unpack(locator.pack()) == locator


PARTS = st.builds(
    Part,
    st.text(max_size=30),
    st.integers(0, (1 << 62) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 32) - 1),
)


@given(parts=st.lists(PARTS, min_size=1, max_size=5).map(tuple))
def test_locators_come_back(parts: tuple[Part, ...]) -> None:
    assert Locator.unpack(Locator(parts).pack()) == Locator(parts)


@given(detail=st.text(), reason=st.sampled_from(ReadReason))
def test_broken_ones_too(detail: str, reason: ReadReason) -> None:
    assert Locator.unpack(Locator((), reason, detail).pack()) == Locator((), reason, detail)


@settings(max_examples=300)
@given(data=st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: b"w" + rest))
def test_made_up_locators_are_refused_or_whole(data: bytes) -> None:
    try:
        locator = Locator.unpack(data)
    except ValueError:
        return
    assert locator.reason is not None or locator.parts
