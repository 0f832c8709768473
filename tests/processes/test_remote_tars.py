"""`cfbus run` and `cfbus check` on tars behind http: right captions, no secrets in what is told."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from processes.support import Nursery, Run
from processes.tables import exact
from sources.remote_rig import Ranged
from sources.tar_rig import make_tar
from sources.web_rig import serving, status

COLOURS = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 220)}


def shard(path: Path, number: int, each: int) -> bytes:
    files = []
    for n in range(number * each, (number + 1) * each):
        colour = list(COLOURS)[n % 3]
        file = io.BytesIO()
        Image.new("RGB", (64 + n, 64), COLOURS[colour]).save(file, "PNG")
        files += [(f"{colour}/{n:04d}.png", file.getvalue()), (f"{colour}/{n:04d}.json", b'{"title": "t"}')]
    return make_tar(path, files).read_bytes()


def test_tars_over_http_become_a_table_with_the_right_captions(nursery: Nursery, tmp_path: Path) -> None:
    pages = {f"/set/shard-{n:04d}.tar": Ranged(shard(tmp_path / "made.tar", n, 20)) for n in range(3)}
    out = tmp_path / "out"
    with serving({**pages, "/": status(404)}) as web:
        address = f"http://user:pass-word@127.0.0.1:{web.port}/set/shard-{{0000..0003}}.tar?key=sig-nature"
        said = Run(nursery, out, address, "--slot", "short=About {column:title}.").command.ends(3)
        assert "60 captions written" in said
        asked = sum(len(page.asked) for page in pages.values())
        assert asked <= 3 * 8, f"{asked} requests for three tars of a block each"
        keys = [f"{list(COLOURS)[n % 3]}/{n:04d}" for n in range(60)]
        for row in exact(out, keys, ["short"]):
            assert row.key.partition("/")[0] in row.text.lower()
        left = (out / "left_out.json").read_text()
        assert "shard-0003.tar" in left
        assert "404" in left
        for log in (out / "run" / "logs").glob("*"):
            assert "pass-word" not in log.read_text(), log
            assert "sig-nature" not in log.read_text(), log
        assert "pass-word" not in said + left
        assert "sig-nature" not in said + left
        again = nursery.start("cfbus.tools.main", "run", tmp_path, "--out", out).ends(2)
        assert "pass-word" not in again
        assert "sig-nature" not in again
        assert "/set/shard-" in again
        checked = nursery.start("cfbus.tools.main", "check", out / "cfbus.yaml").ends(2)
        assert "title" in checked
        assert "pass-word" not in checked
        assert "sig-nature" not in checked
