"""A bus of real daemons in one folder, for made-up items: started role by role, watched, and compared at the end.

Knows how daemons are configured and what has to be in the store; not what is done to them in between.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos.nest import Daemon, Nest
from processes.support import PATIENCE_SECONDS, Watch, free_port
from processes.tables import Row, exact_scripted, spooled

from cfbus.core.snapshot import Status

SLOTS = ("caption",)
MODULES = {"broker": "cfbus.daemons.broker", "writer": "cfbus.daemons.writer", "gpu": "cfbus.daemons.gpu"}


class Bus:
    """Folder, configuration and ports of one bus, and the daemons of it that run."""

    def __init__(self, nest: Nest, folder: Path, *settings: str, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.store = folder / "captions"
        self.config = folder / "cfbus.yaml"
        self.running: dict[str, Daemon] = {}
        self._nest = nest
        self._host = host
        port, self._stats_port = free_port(), free_port()
        servers = [f"{who}.server=tcp://{host}:{port}" for who in ("writer", "worker", "admin")]
        own = [f"broker.host={host}", f"broker.port={port}", f"broker.stats_port={self._stats_port}"]
        scripted = ["dataset.source=scripted", "captions.engine=scripted"]
        flags = [word for setting in (*own, *servers, *scripted, *settings) for word in ("--set", setting)]
        nest.start("cfbus.tools.init", folder, *flags).ends(0)

    def start(self, role: str, *more: str, nest: Nest | None = None, stopped: bool = False) -> Daemon:
        """``broker``, ``writer``, or ``gpu-N``."""
        name, _, number = role.partition("-")
        gpu = ["--gpu-id", number] if number else []
        arguments = ["--config", str(self.config), *gpu, *more]
        daemon = (nest or self._nest).start(MODULES[name], *arguments, stopped=stopped)
        self.running[role] = daemon
        return daemon

    def watch(self) -> Watch:
        """A watch over the broker."""
        line = next(
            text.partition("server_key:")[2].strip().strip("'\"")
            for text in self.config.read_text().splitlines()
            if text.strip().startswith("server_key:")
        )
        return Watch(self.folder / "keys" / "admin.key_secret", line, f"tcp://{self._host}:{self._stats_port}")

    def await_sealed(self, seconds: float = PATIENCE_SECONDS) -> Status:
        """All is done and in parquet. The broker may be away meanwhile."""
        with self.watch() as watch:
            return watch.until(f"all is done and sealed; {self.told()}", lambda s: s.finished and s.sealed, seconds)

    def told(self) -> str:
        """Where the logs are, for whoever looks for a reason."""
        return f"{self.folder}; " + ", ".join(f"{role}: {daemon.log}" for role, daemon in self.running.items())

    def end(self, *roles: str) -> None:
        """SIGTERM to one after the other, workers first, and each ends well."""
        order = {"gpu": 0, "writer": 1, "broker": 2}
        for role in roles or sorted(self.running, key=lambda role: order[role.partition("-")[0]]):
            daemon = self.running.pop(role)
            daemon.signal(signal.SIGTERM)
            daemon.ends(0)

    def exact(self, items: int) -> list[Row]:
        """Every item is in parquet once, with its own caption; the journal is empty, and no result is left over."""
        rows = exact_scripted(self.store, items, SLOTS)
        assert not list((self.store / "journal").glob("*.sqlite*")), "not all is sealed"
        assert not self.left_over(), "results that were neither acknowledged nor thrown away"
        return rows

    def left_over(self) -> Sequence[Path]:
        """Files in the spools, those that were refused too."""
        return [*self.spools("*.result"), *self.spools("rejected/*.result")]

    def spools(self, pattern: str) -> Iterator[Path]:
        """Files of any worker's spool."""
        return (self.folder / "spool").glob(f"*/{pattern}")

    def spooled(self, worker: str) -> set[int]:
        """Items (of one shard) that a worker keeps on its disk."""
        return spooled(self.folder / "spool" / worker)
