"""The rules of the house that no linter knows: layers, sizes, names, what an import may drag in."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 400
HEAVY = ("vllm", "torch", "datasets", "huggingface_hub")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, daemons and tools by the names that they have in it."""
    found = {}
    for folder, _names, files in os.walk(ROOT / "cfbus", followlinks=True):
        for name in files:
            path = Path(folder, name)
            if path.suffix == ".py":
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def run_fresh(code: str) -> str:
    """The output of ``code`` in a new interpreter."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Direction of imports


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree as it lies here, links as links, without what is built."""
    for name in ("cfbus", "daemons", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_the_tree_keeps_its_contracts(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "chain"),
    [
        ("cfbus/errors.py", "import cfbus.logs", "cfbus.errors is not allowed to import cfbus.logs"),
        ("cfbus/store/planted.py", "import cfbus.tools", "cfbus.store is not allowed to import cfbus.tools"),
        ("daemons/planted.py", "import cfbus.tools", "cfbus.daemons is not allowed to import cfbus.tools"),
        ("cfbus/core/planted.py", "import time", "cfbus.core is not allowed to import time"),
        ("tools/planted.py", "import msgpack", "cfbus.tools.planted -> msgpack"),
        ("cfbus/store/planted.py", "import yaml", "cfbus.store.planted -> yaml"),
    ],
)
def test_a_planted_import_is_refused(copy: Path, file: str, line: str, chain: str) -> None:
    with (copy / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert chain in done.stdout


def test_every_module_has_its_layer() -> None:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter")
    layers = parser["importlinter:contract:layers"]["layers"].replace("|", " ").replace(":", " ").split()
    named = [layer.strip("()") for layer in layers]
    empty = {name for name, path in modules().items() if path.name == "__init__.py" and name in ("cfbus", "cfbus.bus")}
    for module in modules().keys() - empty:
        assert any(module == name or module.startswith(f"{name}.") for name in named), f"{module} is in no layer"


# Sizes and names


def test_no_file_is_too_long() -> None:
    for path in sources("cfbus", "daemons", "tools", "tests", "docs"):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    for path in sources("cfbus", "daemons", "tools", "tests", "docs"):
        assert not vague & set(path.stem.split("_")), path


def test_modules_open_with_their_purpose() -> None:
    for name, path in modules().items():
        text = path.read_text()
        assert not text.strip() or text.lstrip().startswith(('"""', 'r"""')), f"{name} has no docstring"


def test_nothing_but_cfbus_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(listed) == found
    assert {(ROOT / "cfbus" / name).readlink() for name in ("daemons", "tools")} == {
        Path("../daemons"),
        Path("../tools"),
    }


# What an import may drag in

_REFUSING = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            print("tried to import", name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize("package", ["daemons", "tools"])
def test_entry_points_import_nothing_heavy(package: str) -> None:
    names = [name for name in modules() if name.startswith(f"cfbus.{package}.")]
    assert run_fresh(f"{_REFUSING}\nfor name in {names!r}: importlib.import_module(name)") == ""


def test_the_trap_for_heavy_imports_works() -> None:
    assert "torch" in run_fresh(f"{_REFUSING}\ntry: import torch.nn\nexcept ImportError: pass")


@pytest.mark.skipif(not importlib.util.find_spec("cfbus.tools.main"), reason="no command line yet")
def test_help_loads_no_large_library() -> None:
    code = """
import sys
sys.argv = ["cfbus", "--help"]
try:
    from cfbus.tools.main import main
    main()
except SystemExit as stop:
    assert stop.code in (None, 0), stop.code
print("\\nloaded:", *sorted({"numpy", "pyarrow", "PIL", "zmq", "duckdb", "skimage"} & set(sys.modules)))
"""
    assert run_fresh(code).splitlines()[-1] == "loaded:"
