"""`cfbus init`: one folder with keys and a commented configuration that means what it says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from cfbus import config
from cfbus.bus import keys
from cfbus.errors import ConfigError, SourceError, UsageError
from cfbus.tools import init


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    return tmp_path / "bus"


def test_the_file_reads_back_for_every_component(bus: Path, pictures: Path) -> None:
    path = init.initialise(bus, (str(pictures),), ("broker.port=7720", "captions.slots.short=One sentence."))
    settings = config.load("gpu", path, (), {}).config
    assert settings == config.load("broker", path, (), {}).config
    assert settings.dataset.paths == (pictures,)
    assert settings.broker.port == 7720
    assert settings.captions.slots["short"].prompt == "One sentence."
    assert settings.storage.data_dir == bus / "captions"
    assert settings.broker.data_dir == bus / "broker"
    ours = keys.load(settings.broker.key_file).public
    for peer in (settings.writer, settings.worker, settings.admin):
        assert keys.parse_public_line(peer.server_key)[0] == ours
        assert keys.load(peer.key_file)


@pytest.mark.parametrize(
    ("sets", "servers", "stats"),
    [
        (("broker.port=7720", "broker.stats_port=7721"), "tcp://127.0.0.1:7720", "tcp://127.0.0.1:7721"),
        (("broker.host=0.0.0.0",), "tcp://127.0.0.1:7710", "tcp://127.0.0.1:7711"),
        (("broker.host=10.0.0.5",), "tcp://10.0.0.5:7710", "tcp://10.0.0.5:7711"),
        (("broker.host=fd00::5", "broker.port=9"), "tcp://[fd00::5]:9", "tcp://[fd00::5]:7711"),
        (("broker.port=0",), "tcp://127.0.0.1:7710", "tcp://127.0.0.1:7711"),
    ],
)
def test_the_others_learn_where_the_broker_is(bus: Path, sets: tuple[str, ...], servers: str, stats: str) -> None:
    settings = config.load("gpu", init.initialise(bus, (), sets), (), {}).config
    assert {peer.server for peer in (settings.writer, settings.worker, settings.admin)} == {servers}
    assert settings.admin.stats == stats


def test_who_was_told_another_address_keeps_it(bus: Path) -> None:
    path = init.initialise(bus, (), ("broker.port=7720", "worker.server=tcp://far:1"))
    settings = config.load("gpu", path, (), {}).config
    assert (settings.worker.server, settings.writer.server) == ("tcp://far:1", "tcp://127.0.0.1:7720")


def test_the_folder_can_be_moved(bus: Path, pictures: Path, tmp_path: Path) -> None:
    init.initialise(bus, (str(pictures),), ())
    assert str(bus) not in (bus / "cfbus.yaml").read_text()
    moved = tmp_path / "moved"
    bus.rename(moved)
    settings = config.load("writer", moved / "cfbus.yaml", (), {}).config
    assert settings.storage.data_dir == moved / "captions"
    assert keys.load(settings.writer.key_file)


def test_every_key_is_explained_and_defaults_are_comments(bus: Path) -> None:
    lines = init.initialise(bus, (), ()).read_text().splitlines()
    assert "  #chunk_size: 1000" in lines
    assert "  key_file: keys/broker.key_secret" in lines
    for number, line in enumerate(lines):
        name = line.strip().lstrip("#").partition(":")[0]
        if name in config.SECTIONS or line.startswith("  #chunk_size"):
            assert lines[number - 1].strip().startswith("# "), line
    assert not any("secret-key" in line for line in lines)


def test_all_comments_taken_away_it_still_means_the_same(bus: Path, pictures: Path) -> None:
    path = init.initialise(bus, (str(pictures),), ())
    settings = config.load("broker", path, (), {}).config
    bare = [line for line in path.read_text().splitlines() if not line.strip().startswith("#")]
    (bus / "bare.yaml").write_text("\n".join(bare))
    assert config.load("broker", bus / "bare.yaml", (), {}).config == settings


def test_defaults_are_the_programs_own_whatever_lies_about(
    bus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cfbus.yaml").write_text("broker: {port: 9999}\n")
    monkeypatch.chdir(tmp_path)
    assert config.load("broker", init.initialise(bus, (), ()), (), {}).config.broker.port == 7710


def test_what_is_there_is_kept(bus: Path) -> None:
    path = init.initialise(bus, (), ())
    text, secret = path.read_bytes(), (bus / "keys" / "broker.key_secret").read_bytes()
    with pytest.raises(UsageError, match="there already"):
        init.initialise(bus, (), ("broker.port=1",))
    assert path.read_bytes() == text
    path.unlink()  # as if it had been interrupted before the last step
    init.initialise(bus, (), ())
    assert (bus / "keys" / "broker.key_secret").read_bytes() == secret
    assert stat.S_IMODE((bus / "keys").stat().st_mode) == 0o700
    assert not list(bus.glob("*.new"))


def test_nothing_is_written_when_something_is_wrong(bus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no such folder"):
        init.initialise(bus, (str(tmp_path / "nowhere"),), ())
    with pytest.raises(SourceError, match="empty"):
        init.initialise(bus, (str(tmp_path / "empty"),), ())
    with pytest.raises(ConfigError, match=r"did you mean broker\.port"):
        init.initialise(bus, (), ("broker.prot=1",))
    assert not bus.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="it is a file"):
        init.initialise(tmp_path / "file", (), ())


def test_it_says_what_to_do_next(bus: Path, pictures: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(init.command, [str(bus), "--images", str(pictures)])
    assert said.exit_code == 0
    for daemon in ("cfbus-broker", "cfbus-writer", "cfbus-gpu --gpu-id 0"):
        assert f"{daemon} --config {bus}/cfbus.yaml" in said.output
    assert "dataset.paths" not in said.output
    assert "dataset.paths" in CliRunner().invoke(init.command, [str(tmp_path / "other")]).output
