"""`cfbus run` and `cfbus check` on lists of addresses: pictures from a real server, and all that servers do instead."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image
from processes.support import PATIENCE_SECONDS, Nursery, Run
from processes.tables import failures, rows
from sources.web_rig import Asked, Page, image, moved, serving, status

COLOURS = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 220)}
LOCAL = (
    "--set", "dataset.downloads.allow_private_addresses=true",
    "--set", "dataset.downloads.attempts=1",
    "--set", "dataset.downloads.timeout_seconds=15",
    "--set", "broker.max_attempts=1",
)  # fmt: skip


def picture(colour: str, number: int) -> bytes:
    """One colour, and no two alike."""
    file = io.BytesIO()
    Image.new("RGB", (64 + number, 64), COLOURS[colour]).save(file, "PNG")
    return file.getvalue()


def pages() -> dict[str, Page]:
    pictures: dict[str, Page] = {
        f"/{colour}/{number}.png": image(picture(colour, number)) for colour in COLOURS for number in range(20)
    }

    def slow(asked: Asked) -> None:
        asked.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        asked.close_connection = True
        stop = threading.Event()
        for _ in range(2400):
            asked.wfile.write(b"x")
            stop.wait(0.05)

    return pictures | {
        "/gone": status(404),
        "/down": status(503),
        "/page": image(b"<html>not found</html>", Content_Type="image/jpeg"),
        "/noai": image(picture("red", 1), X_Robots_Tag="noai"),
        "/odd": image(b"GIF89a no picture"),
        "/away": moved("http://169.254.169.254/latest/meta-data"),
        "/moved": moved("/blue/7.png"),
        "/slow": slow,
    }


FAILURES: Mapping[str, tuple[str, str]] = {
    "/gone": ("http-404", "item"),
    "/down": ("http-503", "network"),
    "/page": ("not-an-image", "item"),
    "/noai": ("noai", "item"),
    "/away": ("private-address", "item"),
    "/slow": ("too-slow", "network"),
}


def test_a_list_becomes_a_table_and_each_failure_has_its_reason(nursery: Nursery, tmp_path: Path) -> None:
    with serving(pages()) as server:
        here = f"http://127.0.0.1:{server.port}"
        good = {f"{here}{path}": path.split("/")[1] for path in server.pages if path.endswith(".png")}
        lines = [json.dumps({"url": url, "title": f"a {colour} thing"}) for url, colour in good.items()]
        lines.insert(3, json.dumps({"url": f"{here}/moved", "title": "a blue thing"}))
        lines += [json.dumps({"url": here + path, "title": "x"}) for path in (*FAILURES, "/odd")]
        lines += ["no json", json.dumps({"url": "ftp://a/b.jpg", "title": "x"})]
        (tmp_path / "list.jsonl").write_text("\n".join(lines))
        out = tmp_path / "out"
        flags = ("--slot", "short=One sentence about {column:title}.", "--set", "dataset.keep_columns=[title]")
        said = Run(nursery, out, tmp_path / "list.jsonl", *flags, *LOCAL).command.ends(3)
    assert "61 captions written" in said

    table = ds.dataset(out / "captions").to_table().to_pylist()
    by_url = {row["url"]: row for row in table}
    assert set(by_url) == {*good, f"{here}/moved"}
    for url, colour in good.items():
        row = by_url[url]
        assert colour in row["caption"]
        number = int(url.rpartition("/")[2].removesuffix(".png"))
        assert row["image_sha256"] == hashlib.sha256(picture(colour, number)).digest()
        assert json.loads(row["metadata"]) == {"title": f"a {colour} thing"}
    assert by_url[f"{here}/moved"]["image_sha256"] == hashlib.sha256(picture("blue", 7)).digest()

    dead = {int(str(row["item_key"])): (row["reason"], row["fault"]) for row in failures(out)}
    first = len(good) + 1
    assert [dead.pop(first + number) for number in range(len(FAILURES))] == list(FAILURES.values())
    assert dead.pop(first + len(FAILURES))[1] == "item"  # what the decoder says
    assert dead == {first + len(FAILURES) + 1: ("bad-row", "item"), first + len(FAILURES) + 2: ("bad-url", "item")}


def test_rows_that_are_appended_are_captioned_by_the_same_command(nursery: Nursery, tmp_path: Path) -> None:
    with serving(pages()) as server:
        urls = [f"http://127.0.0.1:{server.port}{path}" for path in server.pages if path.endswith(".png")]
        path, out = tmp_path / "list.parquet", tmp_path / "out"
        pq.write_table(pa.table({"URL": urls[:30]}), path)
        Run(nursery, out, path, "--source", "urls", *LOCAL).command.ends(0)
        pq.write_table(pa.table({"URL": urls}), path)
        Run(nursery, out, path, "--source", "urls", *LOCAL).command.ends(0)
        assert sorted(row.key for row in rows(out)) == sorted(map(str, range(60)))
        assert {row["url"] for row in ds.dataset(out / "captions").to_table(["url"]).to_pylist()} == set(urls)
        asked = server.asked.total()
        assert "Nothing to do" in Run(nursery, out, path, "--source", "urls", *LOCAL).command.ends(0)
        assert server.asked.total() == asked


def test_by_default_this_host_is_not_asked(nursery: Nursery, tmp_path: Path) -> None:
    with serving(pages()) as server:
        (tmp_path / "list.txt").write_text(f"http://127.0.0.1:{server.port}/red/1.png\n")
        Run(nursery, tmp_path / "out", tmp_path / "list.txt", "--set", "broker.max_attempts=1").command.ends(3)
        assert not server.asked
    assert [row["reason"] for row in failures(tmp_path / "out")] == ["private-address"]


def test_check_shows_what_a_run_would_do(nursery: Nursery, tmp_path: Path) -> None:
    with serving(pages()) as server:
        here = f"http://127.0.0.1:{server.port}"
        (tmp_path / "list.csv").write_text(f"url,title\n{here}/green/3.png,grass\n{here}/gone,gone\n")
        (tmp_path / "cfbus.yaml").write_text(
            "dataset:\n  paths: list.csv\n  downloads: {allow_private_addresses: true}\n"
            "captions:\n  slots: {short: 'About {column:title}.'}\n"
        )
        command = nursery.start("cfbus.tools.main", "check", tmp_path / "cfbus.yaml", "--json")
        command.process.wait(PATIENCE_SECONDS)
    said = json.loads(command.said.strip().splitlines()[-1])
    assert said["items"] == 2
    assert said["prompts"] == {"short": "About grass."}
    assert said["row"]["url"] == f"{here}/green/3.png"
    assert [one["problem"] for one in said["tried"]] == ["", "http-404: The server answered with 404."]
