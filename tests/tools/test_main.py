"""`cfbus` itself: quick help, the nearest verb, and exit codes that are never Python's own 1."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cfbus.tools import admin, main

HEAVY = ("zmq", "pydantic", "pyarrow", "numpy", "PIL", "rich", "yaml", "structlog", "msgpack", "cfbus.config")


def test_help_is_quick_because_it_imports_little() -> None:
    code = (
        "import sys; from cfbus.tools.main import command\n"
        "try: command(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  {verb} " in done.stdout for verb in main.VERBS)


@pytest.mark.parametrize(("typed", "meant"), [("rnu", "run"), ("Run", "run"), ("intit", "init"), ("key-gen", "keygen")])
def test_the_nearest_verb_is_named(typed: str, meant: str) -> None:
    said = CliRunner().invoke(main.command, [typed])
    assert said.exit_code == 2
    assert f"Did you mean '{meant}'?" in said.output


def test_cfbus_admin_names_it_too() -> None:
    said = CliRunner().invoke(admin.command, ["statsu"])
    assert said.exit_code == 2
    assert "Did you mean 'status'?" in said.output


def test_far_from_all_verbs_they_are_listed() -> None:
    said = CliRunner().invoke(main.command, ["\x1b[31mxyz"])
    assert said.exit_code == 2
    assert f"the verbs are run, {', '.join([*main.VERBS][1:])}." in said.output
    assert "\x1b" not in said.output


def test_a_folder_without_a_verb(tmp_path: Path) -> None:
    said = CliRunner().invoke(main.command, [str(tmp_path), "--out", "x"])
    assert said.exit_code == 2
    assert f"Did you mean: cfbus run {tmp_path}?" in " ".join(said.output.split())
    assert CliRunner().invoke(main.command, ["x" * 5000]).exit_code == 2


@pytest.mark.parametrize("verb", [*main.VERBS])
def test_each_verb_has_help(verb: str) -> None:
    said = CliRunner().invoke(main.command, [verb, "--help"])
    assert said.exit_code == 0
    assert said.output.startswith(f"Usage: cfbus {verb}") or said.output.startswith(f"Usage: command {verb}")
    options = said.output.partition("Options:")[2].splitlines()[1:]
    assert options
    assert all(len(line) <= 80 for line in said.output.splitlines())


class Raising(click.Command):
    """A command that ends in this way."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("raising")
        self.error = error

    def invoke(self, ctx: click.Context) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(0), 0),
        (SystemExit(3), 3),
        (SystemExit(1), 130),
        (KeyboardInterrupt(), 130),
        (OSError(errno.EPIPE, "Broken pipe"), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (click.UsageError("what?"), 2),
    ],
)
def test_no_exit_code_is_1(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cfbus"])
    with pytest.raises(SystemExit) as ended:
        main.begin(Raising(error))
    assert ended.value.code == code
    assert "Traceback" not in capfd.readouterr().err
