"""The writer's children are killed (the kernel does that when memory is short): what they did is done again."""

from __future__ import annotations

from pathlib import Path

from chaos.bus import Bus
from chaos.nest import Daemon, Nest
from processes.support import kill, until

ITEMS = 300


def child_of(daemon: Daemon) -> int:
    """A process that it has started, as soon as there is one."""
    path = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
    return int(until("there is a child", lambda: path.read_text().split())[0])


def test_a_child_that_is_killed_is_started_again(nest: Nest, tmp_path: Path) -> None:
    bus = Bus(nest, tmp_path / "bus", f"dataset.items={ITEMS}")
    for role in ("broker", "writer", "gpu-0"):
        bus.start(role)
    writer = bus.running["writer"]
    kill(child_of(writer))
    writer.says("the child that lists ended by signal 9")
    with bus.watch() as watch:
        status = watch.until("all is captioned", lambda s: s.done == ITEMS)
        assert not status.problem
        writer.says("listing.ended")  # a lister lives on for a moment after its last shard
        kill(child_of(writer))
        writer.says("the child that seals ended by signal 9")
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
        assert not status.problem
    bus.end()
    bus.exact(ITEMS)
