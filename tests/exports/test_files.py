"""Sidecars and tars of `cfbus export`, read back as files and by webdataset; and where keys do not lead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset as wds
from exports.rig import Shop, call, newest, own, run

from cfbus.errors import EXIT_DONE, EXIT_PARTLY
from cfbus.exports.request import Format

# Sidecars


def test_sidecars_beside_the_pictures(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "01.txt").write_text("mine")
    (out / "sub" / "02.txt").mkdir()
    code, said = run(shop, out, "txt", "--slot", "short")
    assert code == EXIT_PARTLY
    assert "2 lie behind files" in said
    texts = {path: (out / path).read_text() for path in own(out) if path.endswith(".txt")}
    wanted = {
        key.removesuffix(".jpg") + ".txt": text + "\n"
        for (_, key, slot), text in newest(shop).items()
        if slot == "short"
    }
    del wanted["sub/02.txt"]
    assert texts == wanted | {"sub/01.txt": "mine"}
    assert run(shop, out, "txt", "--slot", "short")[0] == EXIT_PARTLY
    (out / "sub" / "02.txt").rmdir()
    assert run(shop, out, "txt", "--slot", "short", "--overwrite")[0] == EXIT_DONE
    assert (out / "sub" / "01.txt").read_text() != "mine"


def test_several_slots_have_their_names_in_the_file(shop: Shop, tmp_path: Path) -> None:
    assert run(shop, tmp_path / "out", "txt", "--by-shard", "--shard", "birds/b.tar")[0] == EXIT_DONE
    names = own(tmp_path / "out")
    assert "birds/b/b1.long.txt" in names
    assert "birds/b/b0.long.txt" not in names, "an empty caption is none"


def test_no_key_leads_out_of_the_folder(empty_shop: Any, tmp_path: Path) -> None:
    out, secret = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    secret.mkdir()
    (out / "link").symlink_to(secret)
    (out / "there.txt").symlink_to(secret / "new.txt")
    keys = [
        "../up.jpg",
        "/etc/x.jpg",
        "a/../../b.jpg",
        "link/c.jpg",
        "a\x1b[2J.jpg",
        "n" * 300,
        "there.jpg",
        "good.jpg",
    ]
    empty_shop.shard("s", keys)
    empty_shop.manifest.add_pass(["short"])
    empty_shop.caption(0, 0, {"short": ["text"] * len(keys)})
    empty_shop.seal()
    outcome = call(empty_shop, out, Format.TXT)
    assert (outcome.tally.written, outcome.tally.unsafe, outcome.tally.kept) == (1, 6, 1)
    assert list(secret.iterdir()) == []
    assert (out / "good.txt").read_text() == "text\n"


def test_two_pictures_with_one_name(empty_shop: Any, tmp_path: Path) -> None:
    empty_shop.shard("s", ["a.jpg", "a.png"])
    empty_shop.manifest.add_pass(["short"])
    empty_shop.caption(0, 0, {"short": ["first", "second"]})
    empty_shop.seal()
    assert call(empty_shop, tmp_path / "out", Format.TXT).tally.doubled == 1


# webdataset


def samples(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        members = ({**one, "__url__": ""} for one in wds.tariterators.tar_file_iterator(file))
        yield from wds.tariterators.group_by_keys(members)


def test_side_tars(shop: Shop, tmp_path: Path) -> None:
    assert run(shop, tmp_path / "out", "webdataset")[0] == EXIT_DONE
    found = {}
    for shard in ("birds/a.tar", "birds/b.tar"):
        for sample in samples(tmp_path / "out" / shard):
            for slot in ("short", "long", "tags"):
                key = sample["__key__"] + (".jpg" if shard == "birds/a.tar" else "")
                if f"{slot}.txt" in sample:
                    found[shard, key, slot] = sample[f"{slot}.txt"].decode()
                    assert json.loads(sample["captions.json"])[slot]["caption"] == found[shard, key, slot]
    assert found == newest(shop)


def test_packed_with_their_images(shop: Shop, tmp_path: Path) -> None:
    images = tmp_path / "birds"
    images.mkdir()
    with wds.TarWriter(str(images / "b.tar"), encoder=False) as tar:
        for key in ("b0", "b1", "b2", "other"):
            tar.write({"__key__": key, "jpg": key.encode() * 5, "json": b"{}"})
    code, said = run(shop, tmp_path / "out", "webdataset", "--images", str(images), "--slot", "short")
    assert code == EXIT_PARTLY
    assert "12 belong to images that were not found" in said, "ten of a.tar, two of b.tar"
    assert own(tmp_path / "out") == ["CITATION.cff", "CONTRIBUTORS", "birds/b.tar"]
    packed = list(samples(tmp_path / "out" / "birds" / "b.tar"))
    assert [(one["__key__"], one["jpg"], one["short.txt"]) for one in packed] == [
        (key, key.encode() * 5, b"b") for key in ("b0", "b1", "b2")
    ]


def test_the_same_store_gives_the_same_tars(shop: Shop, tmp_path: Path) -> None:
    for name in ("one", "two"):
        call(shop, tmp_path / name, Format.WEBDATASET)
    assert (tmp_path / "one/birds/a.tar").read_bytes() == (tmp_path / "two/birds/a.tar").read_bytes()
