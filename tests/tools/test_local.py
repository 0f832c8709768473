"""What a local run starts from: the command line as settings, what the folder remembers, how far the store is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from cfbus import config
from cfbus.errors import ConfigError, SourceError, StoreInUseError, StoreMismatchError, UsageError
from cfbus.store.folder import Store
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.tools import local
from cfbus.tools.local import Wanted
from cfbus.tools.run import parse_slots


def wanted(out: Path, *folders: Path, slots: dict[str, str] | None = None, sets: tuple[str, ...] = ()) -> Wanted:
    return Wanted(folders, out, slots or {}, None, None, sets)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# Slots


@pytest.mark.parametrize(
    ("slots", "prompt", "parsed"),
    [
        ((), None, {}),
        ((), "What?", {"caption": "What?"}),
        (("tags=List tags.",), None, {"tags": "List tags."}),
        ((" tags = List = tags. ",), None, {"tags": "List = tags."}),
        (("a=1", "b=2"), "3", {"caption": "3", "a": "1", "b": "2"}),
    ],
)
def test_slots_are_names_and_prompts(slots: tuple[str, ...], prompt: str | None, parsed: dict[str, str]) -> None:
    assert parse_slots(slots, prompt) == parsed


@pytest.mark.parametrize(
    ("slots", "prompt", "word"),
    [
        (("tags",), None, "NAME=TEXT"),
        (("=List tags.",), None, "NAME=TEXT"),
        (("tags=  ",), None, "NAME=TEXT"),
        (("a=1", "a=2"), None, "twice"),
        (("caption=1",), "2", "twice"),
        (("\x1b[31m",), None, r"\\x1b"),
    ],
)
def test_what_is_no_slot_is_refused(slots: tuple[str, ...], prompt: str | None, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_slots(slots, prompt)


# Settings


def test_the_store_and_all_that_belongs_to_it_lie_in_the_output_folder(pictures: Path, out: Path) -> None:
    settings = local.configure(wanted(out, pictures), {})
    assert settings.dataset.paths == (pictures,)
    assert settings.storage.data_dir == out
    assert settings.broker.data_dir == out / "run"
    assert settings.worker.spool_dir == out / "run" / "spool"
    assert settings.admin.key_file == out / "keys" / "admin.key_secret"
    assert not out.exists()


def test_addresses_stay_as_they_are_and_paths_become_absolute(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    named = ("hf://org/some-set@main/data", "s3://bucket/a//b.tar", "pictures")
    settings = local.configure(Wanted(named, out, {}, None, None, (), "huggingface"), {})
    assert settings.dataset.paths == ("hf://org/some-set@main/data", "s3://bucket/a//b.tar", pictures)


def test_the_environment_cannot_move_the_store(pictures: Path, out: Path) -> None:
    environ = {"CFBUS_STORAGE__DATA_DIR": "/elsewhere", "CFBUS_CAPTIONS__PIXEL_BUDGET": "4096"}
    settings = local.configure(wanted(out, pictures), environ)
    assert settings.storage.data_dir == out
    assert settings.captions.pixel_budget == 4096
    with pytest.raises(UsageError, match="keeps its store in --out"):
        local.configure(wanted(out, pictures, sets=("storage.data_dir=/elsewhere",)), {})


def test_what_is_said_to_another_engine_is_an_error(pictures: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set vllm\.model: only the engine vllm reads"):
        local.configure(wanted(out, pictures, sets=("vllm.model=a/b", "captions.engine=palette")), {})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("Foo", "x", ["--slot Foo", "a small letter"]),
        ("a.b", "x", ["--slot a.b", "a small letter"]),
        ("a\nb", "x", [r"--slot a\nb", "a small letter"]),
        ("a", "", ["--slot a", "1 to 8192 characters"]),
        ("a", "x" * 10_000, ["--slot a", "10,000 characters", "8192"]),
    ],
)
def test_what_is_wrong_is_told_under_the_name_that_was_typed(
    pictures: Path, out: Path, name: str, text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        local.configure(wanted(out, pictures, slots={name: text}), {})
    assert all(word in caught.value.message for word in words)
    assert "--set" not in caught.value.message
    assert "xxxx" not in caught.value.message


def test_seventeen_slots_are_one_too_many(pictures: Path, out: Path) -> None:
    local.configure(wanted(out, pictures, slots={f"s{number}": "x" for number in range(16)}), {})
    with pytest.raises(ConfigError, match="17 keys is not a section of 1 to 16"):
        local.configure(wanted(out, pictures, slots={f"s{number}": "x" for number in range(17)}), {})


def test_the_output_must_be_able_to_be_a_folder(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name, why in {
        "file": "it is a file",
        "file/below": f"{tmp_path}/file is a file",
        "link": "it is a link to nothing",
        "x" * 300: "file name too long",
        "\udcff": "not UTF-8",
    }.items():
        with pytest.raises(UsageError, match=why):
            local.configure(wanted(tmp_path / name, pictures), {})


def test_folders_are_needed_once(pictures: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="at least one folder"):
        local.configure(wanted(out), {})
    first = local.configure(wanted(out, pictures, slots={"short": "One sentence."}), {})
    local.remember(first, out)
    again = local.configure(wanted(out), {})
    assert again == first
    assert local.configure(wanted(out, pictures), {}) == first
    with pytest.raises(StoreMismatchError, match=str(pictures)):
        local.configure(wanted(out, pictures.parent), {})


def test_what_is_remembered_is_whole_and_is_written_once(pictures: Path, out: Path) -> None:
    settings = local.configure(wanted(out, pictures, sets=("captions.pixel_budget=5000",)), {})
    path = local.remember(settings, out)
    before = path.stat()
    assert local.remember(settings, out) == path
    assert path.stat().st_ino == before.st_ino
    assert config.load("run", path, (), {}).config == settings
    assert "pixel_budget: 5000" in path.read_text()
    assert str(out) not in path.read_text()
    # Whatever a run that was killed left here must not make the folder look like somebody else's.
    assert {entry.name for entry in out.iterdir()} <= {"cfbus.yaml", "run"}
    Store.open(out, "pictures", create=True).close()


# Standing


def test_a_new_folder_has_no_standing_but_the_source_is_looked_at(pictures: Path, out: Path, tmp_path: Path) -> None:
    assert local.standing(local.configure(wanted(out, pictures), {})) is None
    assert not out.exists()
    with pytest.raises(SourceError, match="no such folder"):
        local.standing(local.configure(wanted(out, tmp_path / "nowhere"), {}))
    (pictures / "a.png").unlink()
    with pytest.raises(SourceError, match="empty"):
        local.standing(local.configure(wanted(out, pictures), {}))


def test_somebody_elses_folder_is_left_as_it_is(pictures: Path) -> None:
    with pytest.raises(StoreMismatchError, match=r"a\.png"):
        local.standing(local.configure(wanted(pictures, pictures), {}))
    assert [entry.name for entry in pictures.iterdir()] == ["a.png"]


def test_a_store_that_was_only_begun_is_not_complete(pictures: Path, out: Path) -> None:
    settings = local.configure(wanted(out, pictures), {})
    with Store.open(out, "pictures", create=True) as store:
        assert local.standing(settings) is None
        Manifest.open(store).close()
        assert local.standing(settings) is None
        write_listing(store, 0, ["a.png"], [b"a.png"])
    standing = local.standing(settings)
    assert standing is not None
    assert (standing.items, standing.captions, standing.complete) == (0, 0, False)


def test_a_slot_that_lost_its_prompt_is_told(pictures: Path, out: Path) -> None:
    with Store.open(out, "pictures", create=True) as store:
        manifest = Manifest.open(store)
        manifest.add_pass(["short"])
        manifest.close()
        write_listing(store, 0, ["a.png"], [b"a.png"])
    with pytest.raises(UsageError, match="'short'"):
        local.standing(local.configure(wanted(out, pictures), {}))
    assert local.standing(local.configure(wanted(out, pictures, slots={"short": "One sentence."}), {}))


def test_a_store_of_another_dataset_is_refused(pictures: Path, out: Path) -> None:
    Store.open(out, "others", create=True).close()
    with pytest.raises(StoreMismatchError, match="'others'"):
        local.standing(local.configure(wanted(out, pictures), {}))


# The lock of a run


def test_one_run_to_a_folder(out: Path) -> None:
    said: list[str] = []
    lock, waited = local.lock_run(out, 0.0, said.append)
    assert not waited
    assert not said
    with pytest.raises(StoreInUseError, match="Another run"):
        local.lock_run(out, 0.0, said.append)
    os.close(lock)
    again, _ = local.lock_run(out, 0.0, said.append)
    os.close(again)
