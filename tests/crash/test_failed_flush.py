"""A flush that fails inside SQLite ends the writer: SQLite's own checkpoints would say nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cfbus.errors import DamagedStoreError
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest

GROW = """
import sys
from pathlib import Path
from cfbus.errors import CfbusError
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
store = Store.open(Path(sys.argv[1]), "birds", create=False)
manifest = Manifest.open(store)
try:
    for number in range(2000):
        manifest.add_shards([ShardRow(number, f"birds-{number:05d}", 1, "x" * 64)])
except CfbusError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.usefixtures("recorder")
def test_a_flush_of_the_manifest_that_fails_is_told(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", "birds", create=True) as store:
        Manifest.open(store).close()
        # The log can be flushed, and so each change is durable; what fails is the copying into the file itself.
        strace = ["strace", "-f", "-P", str(store.manifest_path), "-o", os.devnull]
    inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"]
    done = subprocess.run(
        [*strace, *inject, sys.executable, "-c", GROW, str(store.root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == DamagedStoreError.exit_code, done.stdout + done.stderr
    assert "manifest.sqlite" in done.stdout
