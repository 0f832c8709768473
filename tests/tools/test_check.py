"""`cfbus check` tries what a run would do, and finds what a person can get wrong before a GPU is busy."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from processes.asking import needs
from sources.tar_rig import make_tar

from cfbus.tools.check import command
from cfbus.tools.init import command as init


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def make_samples(path: Path, count: int = 3) -> Path:
    files = []
    for n in range(count):
        meta = {"title": f"t{n}", **({"author": "a"} if n else {})}
        files += [(f"k{n}.png", picture(n)), (f"k{n}.json", json.dumps(meta).encode())]
    return make_tar(path, files)


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    """The configuration of a bus over one tar, as `cfbus init` writes it."""
    tar = make_samples(tmp_path / "shards" / "s-0.tar")
    made = CliRunner().invoke(init, [str(tmp_path / "bus"), "--images", str(tar)])
    assert made.exit_code == 0, made.output
    return tmp_path / "bus" / "cfbus.yaml"


def check(config: Path, *settings: str, code: int = 0, flags: tuple[str, ...] = ()) -> Result:
    sets = [word for setting in ("broker.port=0", "broker.stats_port=0", *settings) for word in ("--set", setting)]
    result = CliRunner().invoke(command, [str(config), *sets, *flags])
    assert result.exit_code == code, result.output
    return result


def problems(result: Result) -> list[str]:
    said = json.loads(result.stdout)
    return [finding["sentence"] for finding in said["findings"] if finding["grave"]]


def test_it_shows_items_columns_prompts_and_a_row(bus: Path) -> None:
    result = check(bus, "captions.slots.short=One sentence about {column:title}.", "dataset.keep_columns=title")
    said = result.stdout
    for text in (
        "Items: 3 in 1 shards", "k0", "PNG 30x20", "Prompt of short: One sentence about t0.", "No problem found.",
        'metadata         {"title": "t0"}', "item_key         k0", "caption          A ",
        "shard            shards/s-0.tar",
    ):  # fmt: skip
        assert text in said
    assert not (bus.parent / "captions").exists()


def test_the_same_for_scripts(bus: Path) -> None:
    said = json.loads(check(bus, "captions.slots.short=About {col:title}.", flags=("--json", "--items", "2")).stdout)
    assert (said["items"], said["shards"], said["counted_all"], len(said["tried"])) == (3, 1, True, 2)
    assert said["columns"] == {"title": 2, "author": 1}
    assert said["prompts"] == {"short": "About t0."}
    assert said["row"]["item_key"] == "k0"


def test_columns_that_are_not_there(bus: Path) -> None:
    result = check(bus, "captions.slots.short=About {col:titel}.", code=2, flags=("--json",))
    assert "'titel', which none of the first 3 items has" in problems(result)[0]
    assert "Did you mean 'title'?" in result.stdout
    said = check(bus, "captions.slots.short={col:titel}.", "captions.missing_column=empty").stdout
    assert "Did you mean 'title'?" in said
    said = check(bus, "captions.slots.short=By {col:author}.", "dataset.keep_columns=[autor]").stdout
    assert "'author', which 1 of the first 3 items lack: they become dead letters." in said
    assert "Did you mean 'author'?" in said


def test_items_that_cannot_be_captioned(bus: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "shards" / "s-0.tar", [("a.png", b"no picture"), ("b.png", picture(1))])
    assert "1 of the first 2 items cannot be captioned" in check(bus).stdout
    make_tar(tmp_path / "shards" / "s-0.tar", [("a.png", b"no picture")])
    assert "1 of the first 1 items cannot be captioned: " in problems(check(bus, code=2, flags=("--json",)))[0]


def test_sources_that_cannot_be_listed(bus: Path, tmp_path: Path) -> None:
    said = problems(check(bus, "dataset.paths=[nothing]", "dataset.source=folder", code=2, flags=("--json",)))
    assert "there is no such folder" in said[0]
    said = problems(check(bus, "dataset.paths=[]", code=2, flags=("--json",)))
    assert said == ["dataset.paths names nothing."]
    (tmp_path / "shards" / "s-1.tar").write_bytes(b"cut")
    said = problems(check(bus, f"dataset.paths={tmp_path}/shards/*.tar", code=2, flags=("--json",)))
    assert "1 things that may hold images cannot be listed" in said[0]


def test_counting_ends_when_there_is_no_time(bus: Path) -> None:
    scripted = ("dataset.source=scripted", "dataset.paths=[]", "dataset.items=1000000", "captions.engine=scripted")
    said = json.loads(check(bus, *scripted, flags=("--json", "--seconds", "0")).stdout)
    assert (said["items"], said["counted_all"]) == (4096, False)


def test_places_that_cannot_be_written_to(bus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = CliRunner().invoke(command, [str(bus), "--set", f"storage.data_dir={tmp_path / 'file'}"])
    assert result.exit_code == 2
    assert "a place for a folder" in str(result.output)
    said = problems(check(bus, "storage.data_dir=/proc/nowhere", code=2, flags=("--json",)))
    assert said[0].startswith("storage.data_dir: /proc/nowhere cannot be used")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    said = problems(check(bus, f"storage.data_dir={tmp_path / 'other'}", code=2, flags=("--json",)))
    assert "is no store of cfbus" in said[0]


@pytest.fixture
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system of its own, mounted as the test asks for."""
    place = tmp_path / "mounted"
    place.mkdir()
    problem = "mounting needs root"
    if os.geteuid() == 0:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", place], capture_output=True, text=True, check=False
        )
        problem = done.stderr.strip()
    if problem:
        needs(problem)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize(
    ("mounted", "code", "text"),
    [("ro", 2, "Read-only file system"), ("size=512k", 75, "There is no room"), ("size=20m", 75, "only 2")],
    indirect=["mounted"],
)
def test_a_read_only_or_full_output_folder(bus: Path, mounted: Path, code: int, text: str) -> None:
    said = problems(check(bus, f"storage.data_dir={mounted / 'out'}", code=code, flags=("--json",)))
    assert text in said[0], said


def test_keys_that_cannot_be_used(bus: Path) -> None:
    folder = bus.parent / "keys"
    (folder / "gpu-0.key_secret").chmod(0o644)
    said = problems(check(bus, code=78, flags=("--json",)))
    assert said[0].startswith("worker.key_file: ")
    (folder / "gpu-0.key_secret").chmod(0o600)
    (folder / "writer.key_secret").unlink()
    assert "There is no key yet for writer.key_file." in check(bus).stdout
    line = "cfbus-key1 " + "A" * 43 + ".AAAAAA x"
    result = check(bus, f"worker.server_key={line}", code=2, flags=("--json",))
    assert problems(result)[0].startswith("worker.server_key")


def test_a_store_of_another_dataset(bus: Path) -> None:
    from cfbus.store.folder import Store

    Store.open(bus.parent / "captions", "other", create=True).close()
    said = problems(check(bus, code=2, flags=("--json",)))
    assert "is the store of dataset 'other'" in said[0]


def test_a_configuration_that_is_wrong_is_told_with_its_line(bus: Path) -> None:
    bus.write_text(bus.read_text().replace("dataset:", "dataset:\n  naem: x", 1))
    result = CliRunner().invoke(command, [str(bus)])
    assert result.exit_code == 2
    assert "dataset.naem: no such key; did you mean dataset.name?" in str(result.output)
