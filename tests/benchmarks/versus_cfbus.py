"""cfbus as one side of the comparison: broker, writer and workers as a person starts them one by one, CURVE on; or all
of them in one `cfbus run`.

The rows are counted by reading the journal's files and the parquet files, not by asking the broker.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
from benchmarks.versus_figures import Case
from benchmarks.versus_setup import Start, listens
from processes.support import free_port

import cfbus
from cfbus.store.journal import frame_of_row

ROOT = Path(__file__).resolve().parents[2]
NAME = "cfbus"
_GRANTED = re.compile(r"^(\S+)Z info +broker lease\.granted ", re.MULTILINE)
_FRAMES = (
    "SELECT position, kind, lease, job, pass_number, shard, ranges, mask, contributor, key, received, crc, row_crc,"
    " frame FROM frames"
)


class Cfbus:
    """See ``Setup``."""

    side = NAME

    def __init__(self, data: Path, folder: Path, case: Case, stub: Mapping[str, str], *, one_command: bool) -> None:
        self.folder = folder
        self._case = case
        self._port = free_port()
        self._store = folder / "captions"
        self._most = 0
        self._looked: tuple[int, ...] = ()
        self._listens = not one_command
        slots = ", ".join(f"slot_{n}: Describe this image {n}." for n in range(case.prompts))
        where = str(data) if case.source == "folder" else f"{data}/shard-{{0000..0003}}.tar"
        captions = ["captions.engine=vllm", "vllm.model=stub", f"captions.slots={{{slots}}}"]
        path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        theirs = {**path, **stub, "STUB_BATCH": str(8 * case.prompts)}
        self.servers: dict[str, Start]
        self.workers: dict[str, Start]
        if one_command:
            flags = ["--out", str(self._store), "--workers", str(case.workers), *_settings(captions)]
            command = [sys.executable, "-m", "benchmarks.versus_run", "run", where, *flags]
            folder.mkdir()
            self.servers, self.workers = {"run": Start(command, theirs)}, {}
            return
        addresses = [f"{who}.server=tcp://127.0.0.1:{self._port}" for who in ("writer", "worker", "admin")]
        settings = [f"broker.port={self._port}", f"broker.stats_port={free_port()}", *captions, *addresses]
        init = [sys.executable, "-m", "cfbus.tools.main", "init", str(folder), "--images", where, *_settings(settings)]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        config = ["--config", str(folder / "cfbus.yaml")]

        def start(module: str, environ: Mapping[str, str], *more: str) -> Start:
            return Start([sys.executable, "-m", module, *config, *more], environ)

        self.servers = {who: start(f"cfbus.daemons.{who}", path) for who in ("broker", "writer")}
        self.workers = {
            f"worker {n}": start("benchmarks.versus_worker", theirs, "--gpu-id", str(n)) for n in range(case.workers)
        }

    def ready(self) -> bool:
        return not self._listens or listens(self._port)

    def leased_at(self) -> float | None:
        log = self.folder / "said" / "broker.log"
        found = _GRANTED.search(log.read_text(errors="replace")) if log.exists() else None
        return datetime.fromisoformat(f"{found[1]}+00:00").timestamp() if found else None

    def rows(self) -> int:
        journal = sorted((self._store / "journal").glob("*.sqlite*"))
        sealed = list((self._store / "captions").glob("*.parquet"))
        looked = (len(sealed), *(each.stat().st_size for each in journal if each.exists()))
        if looked != self._looked:
            self._looked = looked
            # What is sealed at this moment may be seen in both places, or be half written: the next look sees more.
            with suppress(OSError, ValueError, sqlite3.Error):
                rows = sum(pq.read_metadata(each).num_rows for each in sealed) // self._case.prompts
                self._most = max(self._most, rows + _journal_rows(journal))
        return min(self._most, self._case.images)

    def keys(self) -> list[str]:
        table = cfbus.open(self._store).arrow(columns=["item_key", "slot"])
        rows = zip(table["item_key"].to_pylist(), table["slot"].to_pylist(), strict=True)
        return [PurePosixPath(f"{key}").stem + ".jpg" for key, slot in rows if slot == "slot_0"]

    def size(self) -> int:
        return sum(each.stat().st_size for each in (self._store / "captions").glob("*.parquet"))

    def mend(self) -> str:
        return ""

    def close(self) -> None:
        """There is nothing that reads on."""


def _settings(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _journal_rows(files: list[Path]) -> int:
    """The items in journal files, which their writer keeps to itself while they are open: a copy is read."""
    rows = 0
    with tempfile.TemporaryDirectory() as name:
        for each in files:
            with suppress(FileNotFoundError):
                shutil.copy(each, name)
        for path in Path(name).glob("*.sqlite"):
            connection = sqlite3.connect(path)
            try:
                for row in connection.execute(_FRAMES):
                    frame = frame_of_row(row)
                    if frame is not None and frame.table == "captions":
                        rows += sum(end - start for _, _, start, end in frame.done())
            finally:
                connection.close()
    return rows
