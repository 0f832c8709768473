"""All daemons of one bus, and somebody who asks."""

from __future__ import annotations

import signal
from pathlib import Path

from processes.support import Nursery, Terminals
from processes.test_admin_verbs import Admin


class AllDaemons:
    """Broker, writer and a worker, each started as in a terminal of its own."""

    def __init__(self, nursery: Nursery, folder: Path, *settings: str) -> None:
        self.terminals = Terminals(nursery, folder, *settings)
        self.ask = Admin(nursery, self.terminals)
        self.store = folder / "captions"
        self._daemons = [self.terminals.start(name) for name in ("broker", "writer", "gpu-0")]

    def finished(self) -> None:
        """All is captioned and sealed."""
        with self.terminals.watch() as watch:
            watch.until("all is captioned and sealed", lambda s: s.finished and s.sealed)

    def end(self) -> None:
        """SIGTERM, and each ends well."""
        for daemon in reversed(self._daemons):
            daemon.signal(signal.SIGTERM)
            daemon.ends(0)
