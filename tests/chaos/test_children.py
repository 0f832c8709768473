"""The writer's children are killed (the kernel does that when memory is short): what they did is done again."""

from __future__ import annotations

from pathlib import Path

from chaos.bus import Bus
from chaos.nest import Daemon, Nest
from processes.support import kill, until

ITEMS = 1000


def kill_children(daemon: Daemon, words: str) -> None:
    """Whatever process it has started, until it says this of one of them."""
    path = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")

    def told() -> bool:
        if words in daemon.said:
            return True
        for child in path.read_text().split():
            kill(int(child))
        return False

    until(lambda: f"{words!r} in the log: {daemon.said}", told)


def test_a_child_that_is_killed_is_started_again(nest: Nest, tmp_path: Path) -> None:
    # It takes some seconds and is sealed each second: a child lives for a moment, and we may just stand still.
    slow = ("captions.scripted.rate=100", "storage.seal_seconds=1")
    bus = Bus(nest, tmp_path / "bus", f"dataset.items={ITEMS}", *slow)
    bus.start("broker")
    writer = bus.start("writer")
    kill_children(writer, "the child that lists ended by signal 9")
    writer.says("listing.ended")
    bus.start("gpu-0")
    kill_children(writer, "the child that seals ended by signal 9")
    with bus.watch() as watch:
        status = watch.until("all is done and sealed", lambda s: s.finished and s.sealed)
        assert not status.problem
    bus.end()
    bus.exact(ITEMS)
