"""Pictures of the gallery: small, made anew, kept, and a sentence where there is none."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from gallery.rig import Shelf
from PIL import Image

from cfbus.gallery import pictures as module
from cfbus.gallery.pictures import NoPictureError, Pictures
from cfbus.sources.base import Content, Item
from cfbus.sources.folder import FolderSource


class Counted(FolderSource):
    """Counts what is read."""

    reads = 0

    def read(self, shard: str, item: Item) -> Content:
        self.reads += 1
        return super().read(shard, item)


@pytest.fixture
def source(filled: Shelf) -> Counted:
    return Counted([filled.pictures])


@pytest.fixture
def pictures(filled: Shelf, source: Counted) -> Iterator[Pictures]:
    made = Pictures(filled.store, source)
    yield made
    made.close()


def test_a_jpeg_made_anew_and_kept(pictures: Pictures, source: Counted) -> None:
    data = pictures.jpeg("pictures-00000", 2, "small")
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (64, 48))
    red, green, blue = image.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
    assert abs(red - 80) + abs(green - 90) + abs(blue - 160) < 12
    assert pictures.jpeg("pictures-00000", 2, "small") == data
    assert source.reads == 1


def test_what_is_kept_is_bounded(pictures: Pictures, source: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    for _ in range(2):
        for index in range(4):
            pictures.jpeg("pictures-00000", index, "small")
    assert source.reads > 4
    assert sum(map(len, pictures._kept.values())) <= 1000


@pytest.mark.parametrize(
    ("shard", "index", "said"),
    [
        ("pictures-00000", 99, "gone"), ("pictures-00000", 10**6, "no such item"),
        ("pictures-00000", -1, "no such item"), ("../../etc/passwd", 0, "no such shard"), ("", 0, "no such shard"),
    ],
)  # fmt: skip
def test_where_there_is_none(pictures: Pictures, shard: str, index: int, said: str) -> None:
    with pytest.raises(NoPictureError, match=said):
        pictures.jpeg(shard, index, "small")


def test_a_file_that_is_no_picture(filled: Shelf, pictures: Pictures) -> None:
    (filled.pictures / "0005.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    with pytest.raises(NoPictureError):
        pictures.jpeg("pictures-00000", 5, "small")


def test_without_a_source(filled: Shelf) -> None:
    with pytest.raises(NoPictureError, match="not known"):
        Pictures(filled.store, None, "not known").jpeg("pictures-00000", 0, "small")
