"""`cfbus run` on tars: what real writers made, columns in rows and prompts, kills, tars that nobody should trust."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pyarrow.dataset as ds
import webdataset as wds
from processes.support import Nursery, Run, kill, until
from processes.tables import exact, failures, make_pictures
from sources.tar_rig import make_tar

SHORT = ("--slot", "short=One short sentence about {column:title}.")
SLOWLY = ("--workers", "1", "--set", "worker.concurrency=1", "--set", "worker.decoders=1")
"""So that there is a middle in which something can happen to it, also when we stand still for some seconds."""


def make_shards(folder: Path, shards: int, each: int) -> dict[str, bytes]:
    """Tars by webdataset's own writer, every third packed; returns each item's image by its key."""
    pictures = folder.parent / "drawn"
    make_pictures(pictures, 0, shards * each)
    files = sorted(pictures.rglob("*.jpg"), key=lambda path: path.name)
    folder.mkdir()
    images = {}
    for number in range(shards):
        packed = number % 3 == 2
        path = folder / f"s-{number:04d}.tar{'.gz' if packed else ''}"
        with wds.TarWriter(str(path), compress=packed) as writer:
            for file in files[number * each : (number + 1) * each]:
                images[f"part/{file.stem}"] = file.read_bytes()
                meta = {
                    "title": f"picture {file.stem}",
                    "url": f"https://example.org/{file.name}",
                    "large": "x" * 20_000,
                }
                sample = {"__key__": f"part/{file.stem}", "jpg": file.read_bytes(), "json": meta, "cls": 7}
                writer.write(sample)
    return images


def test_tars_become_a_table_with_their_columns(nursery: Nursery, tmp_path: Path) -> None:
    images = make_shards(tmp_path / "shards", 4, 60)
    out = tmp_path / "out"
    flags = [*SHORT, "--set", "dataset.keep_columns=[title, cls, large]"]
    said = Run(nursery, out, tmp_path / "shards" / "s-*.tar*", *flags).command.ends(0)
    assert "240 captions written" in said
    exact(out, images, ["short"])
    for row in ds.dataset(out / "captions").to_table().to_pylist():
        key = row["item_key"]
        assert row["image_sha256"] == hashlib.sha256(images[key]).digest()
        assert row["url"] == f"https://example.org/{key.rpartition('/')[2]}.jpg"
        title = f"picture {key.rpartition('/')[2]}"
        assert json.loads(row["metadata"]) == {"title": title, "cls": "7", "(left out)": ["large"]}
        number = int(title[-5:]) // 60
        assert row["shard"] == f"shards/s-{number:04d}.tar{'.gz' if number == 2 else ''}"
    assert "Nothing to do: all 240 images of shards" in Run(nursery, out).command.ends(0)


def test_a_killed_run_goes_on_where_it_was(nursery: Nursery, tmp_path: Path) -> None:
    images = make_shards(tmp_path / "shards", 6, 200)
    out = tmp_path / "out"
    run = Run(nursery, out, tmp_path / "shards" / "s-{0000..0001}.tar", tmp_path / "shards", *SHORT, *SLOWLY)
    with run.follow() as watch:
        watch.until("some are durable", lambda status: 0 < status.done < len(images))
    for role in ("gpu-0", "writer", "broker"):
        kill(run.daemon(role).pid)
    kill(run.command.pid)
    run.command.process.wait()
    Run(nursery, out, "--set", "worker.concurrency=16").command.ends(0)
    exact(out, images, ["short"])


def test_hostile_tars_harm_nobody(nursery: Nursery, tmp_path: Path) -> None:
    images = make_shards(tmp_path / "shards", 2, 20)
    folder, out = tmp_path / "shards", tmp_path / "out"
    good = next(iter(images.values()))
    meta = b'{"title": "t"}'
    make_tar(
        folder / "odd.tar",
        [
            ("fine.jpg", good), ("fine.json", meta), ("../../escaped.jpg", good), ("html.jpg", b"<html>" * 99),
            ("html.json", meta), ("twice.jpg", good), ("twice.jpg", good), ("plain.jpg", good), ("bad.jpg", good),
            ("bad.json", b"{"), ("cut.jpg", good[: len(good) // 2]), ("cut.json", meta), ("zeros.jpg", bytes(70 << 20)),
        ],
    )  # fmt: skip
    with tarfile.open(folder / "odd.tar", "a") as tar:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("device.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    whole = (folder / "s-0000.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "zeros.tar").write_bytes(bytes(1 << 20))
    (folder / "page.tar").write_bytes(b"<html>404</html>")
    with tarfile.open(folder / "s-0000.tar") as tar:
        header = tar.getmembers()[9].offset
    (folder / "flipped.tar").write_bytes(whole[:header] + b"\1" * 512 + whole[header + 512 :])
    said = Run(nursery, out, folder, "--source", "webdataset", *SHORT).command.ends(3)
    assert "9 images could not be captioned" in said
    assert "4 things that may hold images could not be listed" in said
    assert "/cut.tar: it is " in said
    found = {str(row["item_key"]): row["reason"] for row in failures(out)}
    assert found == {
        "../../escaped": "outside", "html": "not-an-image", "twice": "doubled", "plain": "missing-column",
        "bad": "bad-column", "cut": "truncated", "zeros": "too-large-file", "link": "unreadable",
        "device": "unreadable",
    }  # fmt: skip
    rows = ds.dataset(out / "captions").to_table(columns=["shard", "item_key"]).to_pylist()
    assert {row["item_key"] for row in rows if row["shard"] == "shards/odd.tar"} == {"fine"}
    assert {row["item_key"] for row in rows if row["shard"].startswith("shards/s-")} == set(images)
    # A tar that was mended is taken up by the same command; the others are told again.
    (folder / "cut.tar").write_bytes(whole)
    said = Run(nursery, out).command.ends(3)
    assert "cut.tar" not in said
    assert "20 captions written" in said


def test_a_column_that_no_item_has_is_told_before_anything_starts(nursery: Nursery, tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", 1, 3)
    out, tars = tmp_path / "out", tmp_path / "shards" / "*.tar"
    said = Run(nursery, out, tars, "--slot", "short=About {column:titel}.").command.ends(2)
    assert "captions.slots.short: its prompt needs the column 'titel', which none of the first items has" in said
    assert "did you mean title?" in said
    assert not (out / "store.json").exists()
    Run(nursery, out, tars, *SHORT).command.ends(0)


def test_a_tar_that_is_replaced_while_it_is_read_is_reported(nursery: Nursery, tmp_path: Path) -> None:
    images = make_shards(tmp_path / "shards", 1, 600)
    out, path = tmp_path / "out", tmp_path / "shards" / "s-0000.tar"
    other = [(f"{key}.jpg", data[::-1]) for key, data in images.items()]
    run = Run(nursery, out, path, "--slot", "short=Short.", *SLOWLY)
    until("it is listed", lambda: next((out / "listing").glob("*.parquet"), None))
    make_tar(tmp_path / "new.tar", other).replace(path)
    said = run.command.ends(3)
    assert "The tar is not the one that was listed" in said
    reasons = {row["reason"] for row in failures(out)}
    assert reasons == {"changed"}
    done = (
        ds.dataset(out / "captions").to_table(columns=["item_key", "image_sha256"]).to_pylist()
        if any((out / "captions").iterdir())
        else []
    )
    assert len(done) + len(failures(out)) == len(images)
    assert all(row["image_sha256"] == hashlib.sha256(images[row["item_key"]]).digest() for row in done)
