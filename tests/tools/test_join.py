"""`cfbus join`, as far as it goes without a bus: where the invite comes from, what is asked, what fails first."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cfbus.bus import messages as m
from cfbus.bus.invite_line import Facts, Invite, invite_line
from cfbus.bus.keys import generate
from cfbus.bus.messages import Role
from cfbus.config import load
from cfbus.errors import ConfigError
from cfbus.tools import asking, join, joining

SERVER = generate().public
NOBODY = "tcp://127.0.0.1:9"


def a_line(role: Role = Role.WORKER, expires: float | None = None, project: str = "birds") -> str:
    until = int(time.time() + 3600 if expires is None else expires)
    return invite_line(Invite(Facts(NOBODY, SERVER, project, role), until, generate()))


def run(*arguments: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(join.command, [str(argument) for argument in arguments], input=given)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 0.3)


@pytest.mark.parametrize("way", ["-", "stdin", "file", "argument"])
def test_the_invite_comes_in_several_ways_and_is_never_shown(tmp_path: Path, way: str) -> None:
    line = a_line()
    file = tmp_path / "invite"
    file.write_text(line + "\n")
    file.chmod(0o600)
    arguments = {"-": ["-"], "stdin": [], "file": [f"@{file}"], "argument": [line]}[way]
    said = run(*arguments, "--yes", "--dir", tmp_path / "me", given=None if way in ("file", "argument") else line)
    assert said.exit_code == 69, said.output
    assert f"{NOBODY} cannot be reached" in said.output
    assert "birds" in said.output
    assert line not in said.output
    assert ("stays in the shell's history" in said.output) == (way == "argument")
    assert "Others may read" not in said.output
    assert not (tmp_path / "me" / "gpu.yaml").exists()


def test_a_file_that_others_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "invite").write_text(a_line())
    (tmp_path / "invite").chmod(0o644)
    assert "Others may read" in run(f"@{tmp_path}/invite", "--yes", "--dir", tmp_path / "me").output


def test_a_terminal_is_asked_without_echo_and_then_whether_to_go_on(tmp_path: Path) -> None:
    line = a_line()
    master, slave = pty.openpty()
    terminal = "import os; os.setsid(); os.close(os.open(os.ttyname(0), os.O_RDWR))"
    code = f"{terminal}; from cfbus.tools.join import command; command()"
    command = [sys.executable, "-c", code, "--dir", str(tmp_path / "me")]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""

    def until(text: bytes) -> None:
        nonlocal said
        while text not in said:
            said += os.read(master, 4096)

    until(b"Invite (it is not shown): ")
    os.write(master, line.encode() + b"\n")
    until(b"Go on? [y/N]: ")
    os.write(master, b"n\n")
    until(b"Nothing was done.")
    assert process.wait(60) == 2
    os.close(master)
    assert line.encode() not in said
    assert not (tmp_path / "me").exists()


def test_where_nobody_can_be_asked_yes_must_be_said(tmp_path: Path) -> None:
    said = run("-", "--dir", tmp_path / "me", given=a_line())
    assert said.exit_code == 2
    assert "add --yes" in said.output
    assert "birds" in said.output
    assert not (tmp_path / "me").exists()


def test_what_would_fail_at_the_end_fails_before_the_invite_is_used(tmp_path: Path) -> None:
    me = tmp_path / "me"
    me.mkdir()
    (me / "gpu.yaml").write_text("")
    assert "has joined a bus" in run("-", "--yes", "--dir", me, given=a_line()).output
    for more in (["--set", "worker.gpu=1"], ["--name", "a\nb"], ["--set", "dataset.paths"]):
        said = run("-", "--yes", "--dir", tmp_path / "other", *more, given=a_line())
        assert said.exit_code == 2, said.output
    assert not (tmp_path / "other").exists()
    assert run("--file", me / "gpu.yaml", "--yes").exit_code == 2
    assert run(f"@{tmp_path}/nothing").exit_code == 2


def test_an_invite_that_has_ended_here_is_a_hint_where_nobody_answers(tmp_path: Path) -> None:
    said = run("-", "--yes", "--dir", tmp_path / "me", given=a_line(expires=time.time() - 10))
    assert said.exit_code == 69
    assert "the invite has ended, too" in said.output


def test_a_hostile_project_is_shown_harmlessly(tmp_path: Path) -> None:
    said = run("-", "--yes", "--dir", tmp_path / "me", given=a_line(project="\x1b]0;x\x07\u202eevil"))
    assert "\x1b" not in said.output
    assert "\u202e" not in said.output


@pytest.mark.parametrize("role", joining.PLACES)
def test_each_role_gets_a_configuration_that_loads(tmp_path: Path, role: Role) -> None:
    facts = Facts(NOBODY, SERVER, "birds", role, "tcp://127.0.0.1:10")
    engine = joining.Engine("vllm", "Org/Model-1") if role is Role.WORKER else joining.Engine()
    path = joining.write_config(tmp_path / "new", facts, tmp_path / "k.key_secret", engine, ("admin.stats=tcp://h:1",))
    place = joining.PLACES[role]
    settings = load(place.component, path, (), {}).config
    section = getattr(settings, place.section)
    assert (section.server, section.key_file) == (NOBODY, tmp_path / "k.key_secret")
    if role is Role.WORKER:
        assert (settings.captions.engine, settings.vllm.model) == ("vllm", "Org/Model-1")
        assert settings.worker.spool_dir == tmp_path / "new" / "spool"


@pytest.mark.parametrize(
    "model", ["/etc/passwd", "../../x", "~/x", "a/b/c", "a\nb", "https://x/y", "pipe:id", "-x", "a/.b", ""]
)
def test_a_model_that_is_not_called_like_one_of_the_hub_is_left_out(tmp_path: Path, model: str) -> None:
    facts = Facts(NOBODY, SERVER, "birds", Role.WORKER)
    path = joining.write_config(tmp_path, facts, tmp_path / "k", joining.Engine("vllm", model), ())
    assert load("gpu", path, (), {}).config.vllm.model == load("gpu", Path(os.devnull), (), {}).config.vllm.model


def test_an_engine_that_nobody_knows_is_left_out(tmp_path: Path) -> None:
    facts = Facts(NOBODY, SERVER, "birds", Role.WORKER)
    path = joining.write_config(tmp_path, facts, tmp_path / "k", joining.Engine("rm -rf"), ())
    assert load("gpu", path, (), {}).config.captions.engine == "palette"
    with pytest.raises(ConfigError):
        joining.check_overrides(tmp_path, facts, ("captions.engine=rm",))


@pytest.mark.parametrize(("seconds", "words"), [(0, ""), (299, ""), (-299, ""), (400, "behind"), (-400, "ahead of")])
def test_a_clock_that_differs_is_told(seconds: int, words: str) -> None:
    enrolled = m.Enrolled(state="active", now=int((time.time() + seconds) * 1e6), dataset="d")
    said = joining.clock_warning(enrolled.now)
    assert (f"7 minutes {words} the broker's" in said) if words else said == ""
