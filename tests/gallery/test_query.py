"""What the gallery finds in a store, and that it finds all of it once."""

from __future__ import annotations

import pytest
from gallery.rig import HOSTILE, ITEMS, Shelf, captions

from cfbus.gallery import query
from cfbus.gallery.query import Entry, Filters, Gallery
from cfbus.store.compaction import compact


def all_of(gallery: Gallery, filters: Filters, order: str) -> list[Entry]:
    found: list[Entry] = []
    after = None
    for _ in range(ITEMS):
        page = gallery.page(filters, order, after)
        found += page.entries
        after = page.after
        if after is None:
            return found
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("order", ["newest", "dataset"])
@pytest.mark.parametrize("size", [1, 7, 60, 1000])
def test_pages_hold_every_item(filled: Shelf, monkeypatch: pytest.MonkeyPatch, order: str, size: int) -> None:
    monkeypatch.setattr(query, "PAGE_ITEMS", size)
    indexes = [entry.index for entry in all_of(Gallery(filled.store.root), Filters(), order)]
    assert set(indexes) == set(range(ITEMS - 1))
    if order == "dataset":
        assert indexes == sorted(indexes)
        assert len(indexes) == ITEMS - 1
    else:
        assert indexes[:3] == [22, 21, 20]


def test_a_later_revision_replaces_and_the_detail_has_both(filled: Shelf) -> None:
    gallery = Gallery(filled.store.root)
    page = gallery.page(Filters(q="BETTER"))
    assert [(entry.index, [row["slot"] for row in entry.rows]) for entry in page.entries] == [
        (22, ["short", "tags"]), (21, ["short", "tags"]), (20, ["short", "tags"]),
    ]  # fmt: skip
    assert gallery.page(Filters(q="a bird 20 ")).entries == []
    entry = gallery.entry("pictures-00000", 20)
    assert entry is not None
    assert [(row["slot"], row["revision"]) for row in entry.rows] == [("short", 2), ("short", 1), ("tags", 2)]
    assert gallery.entry("pictures-00000", ITEMS - 1) is None
    assert gallery.entry("' or 1=1", 20) is None


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (Filters(slot="tags"), 3),
        (Filters(contributor="c1"), 50),
        (Filters(shard="pictures-00000"), ITEMS - 1),
        (Filters(shard="other"), 0),
        (Filters(finish="length"), 0),
        (Filters(contributor="c1", q="bird 7"), 10),
        (Filters(q="' OR 1=1 --; drop"), 1),
        (Filters(q="%"), 1),
        (Filters(q="_"), 0),
    ],
)
def test_filters(filled: Shelf, filters: Filters, count: int) -> None:
    assert len(all_of(Gallery(filled.store.root), filters, "dataset")) == count


def test_a_flag_is_a_filter(filled: Shelf) -> None:
    gallery = Gallery(filled.store.root)
    (flag,) = gallery.figures().choices["flag"]
    assert len(all_of(gallery, Filters(flag=flag), "dataset")) == 50


def test_figures(filled: Shelf) -> None:
    figures = Gallery(filled.store.root).figures()
    assert (figures.captions, figures.failures) == (ITEMS - 1 + 3, 1)
    assert sum(figures.minutes) == figures.captions
    assert dict(figures.leaders) == {"c0": 53, "c1": 50, "c2": 49}
    assert figures.choices["slot"] == ["short", "tags"]
    counts, newest = Gallery(filled.store.root).failed()
    assert counts == [("empty", 1)]
    assert newest[0][:3] == ("pictures-00000", ITEMS - 1, "<b>bold</b>.png")


def test_a_store_that_grows(growing: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "RENEW_SECONDS", 0.0)
    gallery = Gallery(growing.store.root)
    assert gallery.page(Filters()).entries == []
    assert gallery.figures().captions == 0
    growing.write(0, captions(HOSTILE), len(HOSTILE))
    page = gallery.page(Filters())
    assert [entry.rows[0]["caption"] for entry in page.entries] == [f"{text} short" for text in HOSTILE][::-1]
    assert gallery.figures().captions == len(HOSTILE)
    growing.write(10, captions(["new"]), 1)
    assert gallery.page(Filters()).entries[0].index == 10
    assert gallery.figures().captions == len(HOSTILE) + 1


def test_a_store_whose_files_are_joined_meanwhile(growing: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "RENEW_SECONDS", 0.0)
    growing.write(0, captions(["one"]), 1)
    growing.write(1, captions(["two"]), 1)
    gallery = Gallery(growing.store.root)
    before = gallery.page(Filters())
    assert compact(growing.store, 1, 0).after == 1
    assert len(list((growing.store.root / "captions").glob("*.parquet"))) == 1, "the old files are gone"
    assert gallery.page(Filters()) == before
    assert [entry.index for entry in before.entries] == [1, 0]
