"""Which column holds the images, and cells as JSON has them."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import pyarrow as pa
import pytest

from cfbus.sources.base import ReadError
from cfbus.sources.table_columns import Choice, Wanted, as_json, cells_of, choose, image_in, key_in
from cfbus.sources.table_files import BadTableError

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def schema(columns: dict[str, Any], features: dict[str, Any] | None = None) -> Any:
    said = {"huggingface": json.dumps({"info": {"features": features}})} if features is not None else None
    return pa.schema(columns, metadata=said)


@pytest.mark.parametrize(
    ("columns", "features", "wanted", "image", "url"),
    [
        ({"image": IMAGE, "t": pa.string()}, None, Wanted(), "image", ""),
        ({"JPG": pa.large_binary()}, None, Wanted(), "JPG", ""),
        ({"scan": IMAGE}, None, Wanted(), "scan", ""),
        ({"scan": IMAGE, "image": IMAGE}, {"scan": {"_type": "Image"}}, Wanted(), "scan", ""),
        ({"scan": IMAGE, "image": IMAGE}, None, Wanted(), "image", ""),
        ({"a": IMAGE, "b": IMAGE}, None, Wanted("b"), "b", ""),
        ({"raw": pa.binary()}, None, Wanted("raw"), "raw", ""),
        ({"Image_URL": pa.string(), "t": pa.string()}, None, Wanted(), "", "Image_URL"),
        ({"image": pa.string()}, None, Wanted(), "", "image"),
        ({"image": IMAGE, "where": pa.dictionary(pa.int32(), pa.string())}, None, Wanted(url="where"), "", "where"),
        ({"image": IMAGE, "t": pa.string()}, None, Wanted("t"), "", "t"),
    ],
)
def test_the_column_with_the_images(
    columns: dict[str, Any], features: dict[str, Any] | None, wanted: Wanted, image: str, url: str
) -> None:
    choice = choose(schema(columns, features), wanted)
    assert (choice.image, choice.url) == (image, url)


@pytest.mark.parametrize(
    ("columns", "wanted", "words"),
    [
        ({"a": IMAGE, "b": IMAGE}, Wanted(), r"several columns with images \(a, b\)"),
        ({"image": IMAGE, "photo": pa.binary()}, Wanted(), r"several columns with images \(image, photo\)"),
        ({"raw": pa.binary(), "n": pa.int64()}, Wanted(), r"no column with images \(its columns: raw, n\)"),
        ({"image": IMAGE}, Wanted("imge"), "no column imge .*did you mean image"),
        ({"image": IMAGE, "n": pa.int64()}, Wanted("n"), "no images in its column n, but int64"),
        ({"image": IMAGE, "n": pa.int64()}, Wanted(url="n"), "no addresses in its column n"),
        ({"image": IMAGE}, Wanted(key="id"), "no column id"),
    ],
)
def test_what_cannot_be_chosen_is_said(columns: dict[str, Any], wanted: Wanted, words: str) -> None:
    with pytest.raises(BadTableError, match=words):
        choose(schema(columns), wanted)


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[]", b'{"info": 7}', b'{"info": {"features": {"image": 7}}}', b"[" * 9999]
)
def test_what_a_schema_says_of_itself_may_be_nonsense(said: bytes) -> None:
    assert choose(pa.schema({"image": IMAGE}, metadata={"huggingface": said}), Wanted()).image == "image"


def test_columns_are_as_json_has_them() -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    columns = {
        "image": pa.array([b"x"]),
        "text": pa.array(["ü"]), "null": pa.array([None], pa.string()), "yes": pa.array([True]),
        "nan": pa.array([float("nan")]), "f": pa.array([0.5]), "big": pa.array([2**64 - 1], pa.uint64()),
        "when": pa.array([when]), "day": pa.array([when.date()]), "took": pa.array([datetime.timedelta(seconds=2)]),
        "money": pa.array([decimal.Decimal("1.50")]), "list": pa.array([[1, None]]),
        "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "struct": pa.array([{"a": [{"b": float("inf")}]}]), "word": pa.array(["w"]).dictionary_encode(),
        "bytes": pa.array([b"y"]), "fixed": pa.array([b"12"], pa.binary(2)), "deep": pa.array([[{"a": b"z"}]]),
        "label": pa.array([1]), "odd": pa.array([7]), "labels": pa.array([[0, 1]]),
    }  # fmt: skip
    names = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"label": names, "odd": names, "labels": {"feature": names, "_type": "List"}}
    table = pa.table(columns)
    choice = choose(schema({field.name: field.type for field in table.schema}, features), Wanted())
    (batch,) = table.to_batches()
    found = cells_of(batch, 0, choice)
    assert found == {
        "text": "ü", "yes": True, "f": 0.5, "big": 2**64 - 1, "when": "2026-01-02T03:04:05+00:00", "day": "2026-01-02",
        "took": 2.0, "money": "1.50", "list": [1, None], "map": [["a", 1]], "struct": {"a": [{"b": None}]}, "word": "w",
        "label": "dog", "labels": ["cat", "dog"],
    }  # fmt: skip
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_times_are_to_the_microsecond_and_need_no_pandas() -> None:
    kinds = (pa.timestamp("ns", "UTC"), pa.timestamp("ns"), pa.duration("ns"), pa.time64("ns"))
    table = pa.table({"image": [b"x"], **{str(at): pa.array([1_000_001_999], kind) for at, kind in enumerate(kinds)}})
    (batch,) = table.to_batches()
    assert cells_of(batch, 0, choose(table.schema, Wanted())) == {
        "0": "1970-01-01T00:00:01.000001+00:00", "1": "1970-01-01T00:00:01.000001",
        "2": 1.000001, "3": "00:00:01.000001",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array(["x" * (1 << 20) + "y"]), "has 10485"),
        (pa.array([list(range(200_000))]), "the limit is 1048576"),
        (pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(bytes(4) + b"\1\0\0\0"), pa.py_buffer(b"\xff")]),
         "cannot be read"),
        (pa.array([1 << 62], pa.timestamp("s")), "cannot be read"),
    ],
)  # fmt: skip
def test_a_cell_that_cannot_be_a_column_is_the_items_fault(column: Any, words: str) -> None:
    batch = pa.RecordBatch.from_arrays([column], names=["c"])
    with pytest.raises(ReadError, match=words) as caught:
        cells_of(batch, 0, Choice("", "c", ("c",), {}))
    assert (caught.value.reason, caught.value.fault) == ("bad-column", "item")


def test_images_and_keys_in_cells() -> None:
    cells = pa.array(
        [{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "b"}, None, {"bytes": b"", "path": None}], IMAGE
    )
    assert [image_in(cell, 9) for cell in cells] == [(b"x", "a"), (None, "b"), (None, ""), (None, "")]
    assert [key_in(cell) for cell in pa.array(["a", None])] == ["a", ""]
    assert [key_in(cell) for cell in pa.array([7])] == ["7"]
    assert [key_in(cell) for cell in pa.array([0.5])] == [""]


def test_what_is_no_value_of_json_is_none() -> None:
    assert as_json({"a": {1, 2}, 3: b"x"}) == {"a": None, "3": None}
