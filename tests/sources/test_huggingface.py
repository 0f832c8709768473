"""Tables on this disk as a source: what `datasets` wrote, what changes, what is broken, and who lies."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources.known import Listed
from sources.tables_rig import LABELS, everything, listed, number_in, numbers, opened, png, read, table, written
from sources.web_rig import JPEG, Asked, serving, status

from cfbus.errors import SourceError
from cfbus.sources import huggingface
from cfbus.sources.base import Content, Item, ReadError, ReadReason
from cfbus.sources.huggingface import HuggingFaceSource
from cfbus.sources.table_locators import Origin, TableRow, unpack


def test_what_the_library_wrote_is_read_back_row_by_row(tmp_path: Path) -> None:
    for number in range(3):
        written(tmp_path / "set" / "data" / f"train-{number:05d}-of-00003.parquet", number * 10, 10, group=4)
    source = opened(tmp_path / "set")
    shards = listed(source)
    assert [shard.name for shard in shards] == [f"set/data/train-{n:05d}-of-00003.parquet" for n in range(3)]
    assert shards[0].keys == [f"{row}" for row in range(10)]
    found = everything(source, shards)
    assert numbers(found) == list(range(30))
    for number, content in enumerate(found):
        assert isinstance(content, Content)
        columns = {"label": LABELS[number % 2], "title": f"picture {number}", "score": number / 4}
        assert content.columns == columns
        assert content.data == png(number)
    assert source.left_out.count == 0
    assert listed(source, Listed(shards)) == []
    source.close()


def test_rows_are_read_in_any_order_and_by_many_threads(tmp_path: Path) -> None:
    written(tmp_path / "a.parquet", 0, 60, group=25)
    source = opened(tmp_path / "a.parquet")
    (shard,) = listed(source)
    wrong: list[int] = []

    def work(start: int) -> None:
        for step in range(120):
            index = (start + step * 7) % 60
            content = read(source, shard, index)
            if not isinstance(content, Content) or number_in(content.data) != index:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_large_table_is_several_shards_of_whole_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "SHARD_ROWS", 10)
    path = written(tmp_path / "d" / "a.parquet", 0, 25, group=4)
    source = opened(path)
    shards = listed(source)
    assert [(shard.name, len(shard.keys)) for shard in shards] == [
        ("d/a.parquet#3", 9), ("d/a.parquet#2", 8), ("d/a.parquet", 8),
    ]  # fmt: skip
    assert [list(shard.group_ends) for shard in shards] == [[4, 8, 9], [4, 8], [4, 8]]
    assert numbers(everything(source, shards[::-1])) == list(range(25))
    assert [key for shard in shards[::-1] for key in shard.keys] == [f"{row:02d}" for row in range(25)]
    # A listing that was cut off goes on with the parts that are missing; one that is whole does not open the table.
    assert [shard.name for shard in listed(source, Listed(shards[:2]))] == ["d/a.parquet"]
    written(path, 0, 24, group=4)
    assert listed(source, Listed(shards)) == []
    assert listed_nothing(source, Listed(shards[:2])) == [(str(path), True)]
    assert "changed while it was listed" in source.left_out.things[0].reason


def listed_nothing(source: HuggingFaceSource, known: Listed) -> list[tuple[str, bool]]:
    with pytest.raises(SourceError):
        listed(source, known)
    return [(thing.path, thing.grave) for thing in source.left_out.things]


def test_a_row_group_larger_than_a_shard_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "SHARD_ROWS", 10)
    source = opened(written(tmp_path / "a.parquet", 0, 23, group=100))
    shards = listed(source)
    assert [(len(shard.keys), list(shard.group_ends)) for shard in shards] == [(3, [3]), (10, []), (10, [])]
    assert numbers(everything(source, shards[::-1])) == list(range(23))


def test_keys_come_from_a_column(tmp_path: Path) -> None:
    images = [png(number) for number in range(5)]
    keys = ["first", None, "third", "x" * 2000, "fünf"]
    path = table(tmp_path / "a.parquet", {"image": images, "id": keys, "n": [7, 8, 9, 10, 11]}, group=2)
    (shard,) = listed(opened(path, key="id"))
    assert shard.keys == ["first", "1", "third", "x" * 1024, "fünf"]
    (shard,) = listed(opened(path, key="n"))
    assert shard.keys == ["7", "8", "9", "10", "11"]


def test_a_listing_reads_footers_only(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", 0, 40, group=10)
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)  # the first pages
    path.write_bytes(data)
    source = opened(path)
    (shard,) = listed(source)
    assert len(shard.keys) == 40
    found = numbers(everything(source, [shard]))
    assert found[0] == "unreadable/item"
    assert found[10:] == list(range(10, 40))


def test_images_behind_addresses_and_beside_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "data" / "more").mkdir(parents=True)
    (folder / "data" / "more" / "1.png").write_bytes(png(1))
    (tmp_path / "secret.png").write_bytes(png(9))
    (folder / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "data" / "notes.txt").write_bytes(png(9))
    with serving({"/a.jpg": status(200, JPEG)}) as web:
        paths = ["0.png", "more/1.png", "../../secret.png", "/etc/passwd", "link.png", "notes.txt", "gone.png", None]
        paths.append(f"http://127.0.0.1:{web.server_address[1]}/a.jpg")
        cells = [{"bytes": None, "path": path} for path in paths]
        cells[0]["bytes"] = png(0)  # type: ignore[assignment]
        table(folder / "data" / "a.parquet", {"image": cells})
        source = opened(folder)
        (shard,) = listed(source)
        found = everything(source, [shard])
        assert numbers(found[:-1]) == [
            0, 1, "outside/item", "outside/item", "outside/item", "outside/item", "vanished/item", "no-image/item",
        ]  # fmt: skip
        assert isinstance(found[-1], Content)
        assert found[-1].data == JPEG
        source.close()


def test_a_column_of_addresses_is_downloaded(tmp_path: Path) -> None:
    def slow(asked: Asked) -> None:
        asked.answer(404)

    with serving({"/0.jpg": status(200, JPEG), "/1.jpg": slow}) as web:
        start = f"http://127.0.0.1:{web.server_address[1]}"
        urls = [f"{start}/0.jpg", f"{start}/1.jpg", None, "ftp://x/y"]
        path = table(tmp_path / "a.parquet", {"TEXT": list("abcd"), "URL": urls})
        source = opened(path)
        (shard,) = listed(source)
        first, *others = everything(source, [shard])
        assert isinstance(first, Content)
        assert (first.data, first.columns) == (JPEG, {"TEXT": "a", "URL": urls[0], "url": urls[0]})
        assert numbers(others) == ["http-404/item", "no-image/item", "bad-url/item"]
        assert opened(path, url="URL").readers > source.readers
        source.close()


def test_one_null_or_too_large_image_harms_no_other(tmp_path: Path) -> None:
    images = [png(0), None, b"", b"x" * 5000, png(4)]
    source = opened(table(tmp_path / "a.parquet", {"jpg": images}), max_file_bytes=4999)
    (shard,) = listed(source)
    found = numbers(everything(source, [shard]))
    assert found == [0, "no-image/item", "no-image/item", "too-large-file/item", 4]


@pytest.mark.parametrize("how", ["replaced", "written over", "cut", "gone"])
def test_a_table_that_changes_is_noticed_and_nothing_is_mixed(tmp_path: Path, how: str) -> None:
    path = written(tmp_path / "a.parquet", 0, 40, group=10)
    source = opened(path)
    (shard,) = listed(source)
    assert numbers([read(source, shard, 0)]) == [0]
    before = path.read_bytes()
    if how == "replaced":
        written(tmp_path / "b.parquet", 100, 40, group=10).replace(path)
    elif how == "written over":
        path.write_bytes(written(tmp_path / "b.parquet", 100, 40, group=10).read_bytes())
    elif how == "cut":
        os.truncate(path, 5000)
    else:
        path.unlink()
    found = numbers(everything(source, [shard]))
    assert found == (["changed/worker"] * 40 if how != "gone" else ["changed/worker", *["source-missing/worker"] * 39])
    path.write_bytes(before)
    assert numbers(everything(source, [shard])) == list(range(40))
    # Another process, which has read nothing before, sees it too.
    written(path, 100, 40, group=10)
    assert set(numbers(everything(opened(path), [shard]))) == {"changed/worker"}


def test_a_table_of_another_schema_is_left_out_with_its_column(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    written(folder / "a.parquet", 0, 4)
    table(folder / "b.parquet", {"picture": [png(9)], "title": ["t"]})
    table(folder / "c.parquet", {"title": ["t"]})
    written(folder / "d.parquet", 4, 4)
    source = opened(folder)
    shards = listed(source)
    assert numbers(everything(source, shards)) == list(range(8))
    told = {Path(thing.path).name: thing.reason for thing in source.left_out.things if thing.grave}
    assert set(told) == {"b.parquet", "c.parquet"}
    assert "column picture" in told["b.parquet"]
    assert "a.parquet has them in image" in told["b.parquet"]
    assert "no column with images (its columns: title)" in told["c.parquet"]


def encrypted(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(100) + (50).to_bytes(4, "little") + b"PARE")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "it is empty"),
        ("short", "it is too short"),
        ("text", "no parquet file, or was cut off"),
        ("cut", "no parquet file, or was cut off"),
        ("encrypted", "is encrypted"),
        ("footer", "its footer cannot be so long"),
        ("garbage", "cannot be read as parquet"),
        ("rowless", "has no rows"),
        ("gone", "is not there"),
        ("folder", "no regular file"),
        ("doubled", "two columns that are called title"),
    ],
)
def test_a_file_that_is_no_table_is_left_out_with_a_sentence(tmp_path: Path, name: str, words: str) -> None:
    good, bad = written(tmp_path / "good.parquet", 0, 4), tmp_path / "bad.parquet"
    data = good.read_bytes()
    made = {
        "empty": b"", "short": b"PAR1", "text": b"<html>" * 99, "cut": data[:-100],
        "footer": b"PAR1" + bytes(50) + (1 << 20).to_bytes(4, "little") + b"PAR1",
        "garbage": b"PAR1" + b"\xff" * 50 + (40).to_bytes(4, "little") + b"PAR1",
    }  # fmt: skip
    if name in made:
        bad.write_bytes(made[name])
    elif name == "encrypted":
        encrypted(bad)
    elif name == "rowless":
        table(bad, {"image": pa.array([], pa.binary())})
    elif name == "folder":
        bad.mkdir()
    elif name == "doubled":
        pq.write_table(pa.Table.from_arrays([[b"x"], ["a"], ["b"]], names=["image", "title", "title"]), bad)
    source = opened(tmp_path / "good.parquet", bad) if name != "folder" else opened(good, tmp_path / "bad*")
    (shard,) = listed(source)
    assert shard.name.endswith("good.parquet")
    (thing,) = source.left_out.things
    assert thing.grave
    assert words in thing.reason
    with pytest.raises(SourceError, match=words):
        listed(opened(bad if name != "folder" else tmp_path / "bad*"))


def test_damage_anywhere_in_a_table_is_an_error_of_its_items_and_no_crash(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", 0, 12, group=4)
    data = path.read_bytes()
    for at in range(4, len(data) - 8, 37):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        source = opened(path)
        try:
            shards = listed(source)
        except SourceError:
            continue
        for content in everything(source, shards):
            assert isinstance(content, Content | ReadError)
        source.close()


def test_a_missing_column_is_named_with_the_ones_there_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", 0, 4)
    with pytest.raises(SourceError, match=r"no column imgae .*did you mean image"):
        listed(opened(path, image="imgae"))
    with pytest.raises(SourceError, match="no column link"):
        listed(opened(path, url="link"))
    with pytest.raises(SourceError, match=r"no column id \(its columns: image, label, title, score\)"):
        listed(opened(path, key="id"))


@pytest.mark.parametrize(
    ("shard", "locator", "reason"),
    [
        ("d/a.parquet", b"", ReadReason.OUTSIDE),
        ("d/a.parquet", b"t" + bytes(3), ReadReason.OUTSIDE),
        ("d/a.parquet", b"pickle", ReadReason.OUTSIDE),
        ("d/other.parquet", None, ReadReason.SOURCE_MISSING),
        ("../../etc/passwd", None, ReadReason.SOURCE_MISSING),
        ("d/secret.parquet", None, ReadReason.SOURCE_MISSING),
    ],
)
def test_who_lies_about_an_item_reads_nothing(
    tmp_path: Path, shard: str, locator: bytes | None, reason: ReadReason
) -> None:
    path = written(tmp_path / "d" / "a.parquet", 0, 4)
    written(tmp_path / "d" / "secret.parquet", 0, 4)
    source = opened(path)
    (good,) = listed(source)
    with pytest.raises(ReadError) as caught:
        source.read(shard, Item(0, "0", good.locators[0] if locator is None else locator))
    assert (caught.value.reason, caught.value.fault) == (reason, "worker")
    for group, row in ((7, 0), (0, 4), (1 << 31, 1 << 31)):
        place = unpack(good.locators[0])
        assert isinstance(place, TableRow)
        lie = TableRow(group, row, place.table, Origin()).pack()
        with pytest.raises(ReadError, match="no such row"):
            source.read(good.name, Item(0, "0", lie))


def test_splits_and_configurations_choose_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    written(folder / "data" / "train-00000-of-00001.parquet", 0, 4)
    written(folder / "data" / "test-00000-of-00001.parquet", 10, 4)
    written(folder / "small" / "train" / "0000.parquet", 20, 4)
    (shard,) = listed(opened(folder, split="test"))
    assert shard.name == "set/data/test-00000-of-00001.parquet"
    (shard,) = listed(opened(folder, split="train", config="small"))
    assert shard.name == "set/small/train/0000.parquet"
    with pytest.raises(SourceError, match=r"no split dev \(its splits: test, train\)"):
        listed(opened(folder, split="dev"))
    (folder / "README.md").write_text(
        "---\nlicense: mit\nconfigs:\n- config_name: one\n  data_files: small/**/*.parquet\n"
        "- config_name: two\n  default: true\n  data_files:\n  - split: gold\n    path: data/test-*\n---\n# Set\n"
    )
    (shard,) = listed(opened(folder, split="gold"))
    assert shard.name == "set/data/test-00000-of-00001.parquet"
    (shard,) = listed(opened(folder, config="one"))
    assert shard.name == "set/small/train/0000.parquet"
    with pytest.raises(SourceError, match=r"no configuration three \(there are one, two\)"):
        listed(opened(folder, config="three"))


def test_pictures_in_folders_have_the_columns_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(6):
        split = "train" if number < 4 else "test"
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{number}.png").write_bytes(png(number))
    (folder / "train" / "metadata.csv").write_text("file_name,title\n0.png,nought\n3.png,three\n../../x.png,out\n")
    (folder / "test" / "metadata.jsonl").write_text('{"file_name": "5.png", "title": "five", "n": 5}\n')
    source = opened(folder, shard_items=4)
    shards = listed(source)
    assert [(shard.name, shard.keys) for shard in shards] == [
        ("set-00000", ["test/4.png", "test/5.png", "train/0.png", "train/1.png"]),
        ("set-00001", ["train/2.png", "train/3.png"]),
    ]
    found = everything(source, shards)
    assert numbers(found) == [4, 5, 0, 1, 2, 3]
    columns = [content.columns for content in found if isinstance(content, Content)]
    assert columns == [{}, {"title": "five", "n": 5}, {"title": "nought"}, {}, {}, {"title": "three"}]
    (shard,) = listed(opened(folder, split="train"))
    assert shard.keys == [f"train/{number}.png" for number in range(4)]
    with pytest.raises(SourceError, match="no split validation"):
        listed(opened(folder, split="validation"))
    assert listed(source, Listed(shards)) == []
    (folder / "train" / "9.png").write_bytes(png(9))
    (shard,) = listed(source, Listed(shards))
    assert (shard.name, shard.keys) == ("set-00002", ["train/9.png"])


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "nothing is not there"), ("saved", "write it with to_parquet")]
)
def test_where_there_is_nothing_it_is_said_what_to_name(tmp_path: Path, name: str, words: str) -> None:
    if name == "saved":
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
        (tmp_path / name / "data-00000-of-00001.arrow").write_bytes(b"ARROW1")
    with pytest.raises(SourceError) as caught:
        listed(opened(tmp_path / name))
    assert words in f"{caught.value.message} {caught.value.hint}"
    assert opened(tmp_path / "nothing").out_of_reach().endswith("no table is here.")
    assert opened().out_of_reach() == "No table and no dataset is named here."


def test_nothing_stays_open(tmp_path: Path) -> None:
    def held() -> Iterator[str]:
        for entry in Path("/proc/self/fd").iterdir():
            if entry.is_symlink() and (target := str(entry.readlink())).startswith(str(tmp_path)):
                yield target

    for number in range(20):
        written(tmp_path / f"{number:02d}.parquet", number, 2)
    source = opened(tmp_path)
    shards = listed(source)
    assert list(held()) == []
    assert len(everything(source, shards)) == 40
    assert 0 < len(list(held())) <= huggingface.KEPT_OPEN
    source.close()
    assert list(held()) == []
