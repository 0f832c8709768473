"""What people meet first: how long `cfbus --help` takes, and how many megabytes an installation has."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from benchmarks.figures import Package

HELP_RUNS = 10
_NAME = re.compile(r"^[A-Za-z0-9._-]+")


def help_seconds() -> list[float]:
    """Wall-clock seconds of some calls; the first may have to read from the disk."""
    command = [str(Path(sys.executable).with_name("cfbus")), "--help"]
    seconds = []
    for _ in range(HELP_RUNS):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - began)
    return seconds


def packages() -> list[Package]:
    """What `pip install cfbus` without extras brings, the largest first; not Python, pip, or cfbus itself."""
    found: dict[str, Package] = {}
    waiting = ["cfbus"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        files = [Path(str(file.locate())) for file in installed.files or ()]
        size = sum(path.stat().st_size for path in files if path.is_file())
        found[name] = Package(name=name, version=installed.version, mib=size / (1 << 20))
        waiting += [_name(line) for line in installed.requires or () if "extra ==" not in line]
    del found["cfbus"]
    return sorted(found.values(), key=lambda package: -package.mib)


def _name(requirement: str) -> str:
    match = _NAME.match(requirement)
    assert match is not None
    return match[0].lower().replace("_", "-")
