"""A storm: a broker, a writer and four workers at work, of which one dies, freezes or is cut off every few seconds.

``python tests/chaos/storm.py --seed 7 --kills 1000``. When so many have been killed it is left in peace, has to finish
by itself, and the tables have to hold every item once. What strikes whom follows from the seed, but when it strikes
follows from real processes: a seed that failed is a good guess, not a replay.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from chaos import apart
from chaos.bus import Bus
from chaos.forking import COUNT
from chaos.nest import Nest
from chaos.verdict import Verdict, compare
from processes.support import Watch, kill

from cfbus.core.snapshot import Status
from cfbus.errors import TryAgainError

NEAR_WORKERS, FAR_WORKERS = ("gpu-0", "gpu-1"), ("gpu-2", "gpu-3")
ROLES = ("broker", "writer", *NEAR_WORKERS, *FAR_WORKERS)
TARGETS = (*ROLES, "child")
"""``child``: whatever the writer has started, to list or to seal; if there is none, the writer."""
PATIENCE_SECONDS = 3.0
LEASE_SECONDS = 5
FREEZE_SECONDS = LEASE_SECONDS + 2.0
CUT_SECONDS = (1.0, 9.0)
FREEZES, CUTS = 0.08, 0.06
"""Of all strikes."""
CALM_SECONDS = 240.0
WORK_LEFT_SECONDS, WORK_ADDED_SECONDS = 15.0, 45.0
"""With so little left to do for four workers, so much is added."""
_SENT_AGAIN = re.compile(r"results\.sent-again count=(\d+)")


@dataclass(frozen=True)
class Plan:
    """How hard it blows."""

    seed: int
    kills: int
    items: int
    rate: float
    """Items per second of one worker."""

    @property
    def most_seconds(self) -> float:
        """It cannot last longer than this."""
        return self.kills * PATIENCE_SECONDS / (1 - FREEZES - CUTS) * 1.5 + CALM_SECONDS


class Storm:
    """The bus, and what is done to it."""

    def __init__(self, plan: Plan, folder: Path, near: Nest, far: Nest, wire: apart.Wire | None) -> None:
        self.plan = plan
        self.items = plan.items
        self._dice = random.Random(plan.seed)
        self._near, self._far, self._wire = near, far, wire
        self._began = time.monotonic()
        self._thaw_at: dict[int, float] = {}
        self._mend_at = 0.0
        self._status: Status | None = None
        self._lives: dict[int, Status] = {}  # the last that was seen of each broker
        self.strikes: Counter[str] = Counter()
        self.bus = Bus(
            near,
            folder,
            f"dataset.items={plan.items}",
            f"captions.scripted.rate={plan.rate}",
            "captions.scripted.length=200",
            "storage.seal_seconds=10",
            "worker.concurrency=32",
            "broker.chunk_size=200",
            f"broker.lease_seconds={LEASE_SECONDS}",
            host=apart.NEAR if wire else "127.0.0.1",
        )
        for role in ROLES:
            self._start(role)

    def _start(self, role: str) -> None:
        self.bus.start(role, nest=self._far if role in FAR_WORKERS else self._near)

    def blow(self) -> None:
        """Until enough have been killed."""
        with self.bus.watch() as watch:
            for _ in self._moments(watch):
                self._strike()
                if self.kills >= self.plan.kills:
                    break
            self._calm()
            self._until_sealed(watch)

    @property
    def kills(self) -> int:
        """How many have been killed so far."""
        return sum(count for what, count in self.strikes.items() if what in TARGETS)

    def _moments(self, watch: Watch) -> Iterator[None]:
        """Whenever one percent more is durable or three seconds have passed."""
        step = self.plan.items // 100
        while True:
            began, done = time.monotonic(), self._done
            while time.monotonic() < began + PATIENCE_SECONDS and self._done < done + step:
                self._look(watch)
            self._grow()
            yield

    @property
    def _done(self) -> int:
        return max((status.done for status in self._lives.values()), default=0)

    def _look(self, watch: Watch) -> None:
        status = watch.look(0.05)
        if status is not None:
            self._status = status
            self._lives[self.bus.running["broker"].pid] = status
        at = time.monotonic()
        assert at < self._began + self.plan.most_seconds, f"it has not ended in time: {self._status}"
        for pid in [pid for pid, when in self._thaw_at.items() if at >= when]:
            self._thaw(pid)
        if self._wire and not self._wire.whole and at >= self._mend_at:
            self._wire.mend()
        self._look_after()

    def _look_after(self) -> None:
        """Start again what gave up for a reason that passes; anything else is a finding."""
        for role, daemon in list(self.bus.running.items()):
            if daemon.code is None:
                continue
            assert daemon.code == TryAgainError.exit_code, f"{role} ended with {daemon.code}: {daemon.said[-2000:]}"
            self.strikes["gave up, started again"] += 1
            self._start(role)

    def _grow(self) -> None:
        """There has to be work for as long as it blows, and not much more. Who is started from now on knows of it."""
        second = self.plan.rate * len(NEAR_WORKERS + FAR_WORKERS)
        if self.items - self._done > WORK_LEFT_SECONDS * second:
            return
        before = f"items: {self.items}"
        self.items += int(WORK_ADDED_SECONDS * second)
        text = self.bus.config.read_text()
        assert before in text
        self.bus.config.write_text(text.replace(before, f"items: {self.items}"))
        for role in ("writer", "broker"):
            self._kill(role)

    # ------------------------------------------------------------------ strikes

    def _strike(self) -> None:
        fate = self._dice.random()
        target = self._dice.choice(TARGETS)
        if fate < FREEZES:
            self._freeze(target)
        elif fate < FREEZES + CUTS and self._wire is not None:
            self.strikes["cut off"] += 1
            self._mend_at = time.monotonic() + self._dice.uniform(*CUT_SECONDS)
            self._wire.cut()
        else:
            self._kill(target)

    def _kill(self, role: str) -> None:
        if role == "child":
            child = self._child()
            if child is not None:
                self.strikes["child"] += 1
                kill(child)
                return
            role = "writer"
        daemon = self.bus.running[role]
        if daemon.code is not None:
            return
        self.strikes[role] += 1
        self._thaw_at.pop(daemon.pid, None)
        daemon.kill()
        self._start(role)

    def _child(self) -> int | None:
        """A process that the writer has started."""
        pid = self.bus.running["writer"].pid
        path = Path(f"/proc/{pid}/task/{pid}/children")
        children = path.read_text().split() if path.exists() else []
        return int(children[0]) if children else None

    def _freeze(self, role: str) -> None:
        daemon = self.bus.running["writer" if role == "child" else role]
        self.strikes["frozen"] += 1
        daemon.signal(signal.SIGSTOP)
        self._thaw_at[daemon.pid] = time.monotonic() + FREEZE_SECONDS

    def _thaw(self, pid: int) -> None:
        del self._thaw_at[pid]
        for daemon in self.bus.running.values():
            if daemon.pid == pid:
                daemon.signal(signal.SIGCONT)

    def _calm(self) -> None:
        for pid in list(self._thaw_at):
            self._thaw(pid)
        if self._wire:
            self._wire.mend()
        # A broker that knew the last growth has to have been started after the writer that did.
        self._kill("broker")

    def _until_sealed(self, watch: Watch) -> None:
        until = time.monotonic() + CALM_SECONDS
        while not self._all_is_sealed():
            assert time.monotonic() < until, f"it does not finish: {self._status}; {self.bus.told()}"
            self._look(watch)

    def _all_is_sealed(self) -> bool:
        status = self._lives.get(self.bus.running["broker"].pid)
        return status is not None and status.items == self.items and status.finished and status.sealed

    # ------------------------------------------------------------------ afterwards

    def verdict(self) -> Verdict:
        """End all, and look at the tables."""
        self.bus.end()
        logs = [path for nest in {self._near, self._far} for path in nest.folder.glob("*-gpu.log")]
        counts = [path for nest in {self._near, self._far} for path in nest.folder.glob("*.captioned")]
        return compare(
            self.bus.store,
            self.items,
            strikes=self.strikes,
            seconds=time.monotonic() - self._began,
            captioned=sum(COUNT.unpack(path.read_bytes())[0] for path in counts),
            sent_again=sum(int(n) for path in logs for n in _SENT_AGAIN.findall(path.read_text(errors="replace"))),
            duplicates=sum(status.duplicates for status in self._lives.values()),
            leases_granted=self._status.leases_granted if self._status else 0,
            leases_ended=sum(status.leases_ended for status in self._lives.values()),
            left_over=[str(path) for path in self.bus.left_over()],
        )


def run(plan: Plan, folder: Path, *, wired: bool) -> Verdict:
    """A whole storm."""
    with ExitStack() as stack:
        near = stack.enter_context(Nest(folder / "near"))
        far = stack.enter_context(Nest(folder / "far", apart.ALONE)) if wired else near
        storm = Storm(plan, folder / "bus", near, far, apart.Wire(far) if wired else None)
        storm.blow()
        return storm.verdict()


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say."""
    parser = argparse.ArgumentParser(prog="storm.py", description="Kill processes of a bus at work.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--items", type=int, default=100_000, help="at the beginning; it grows")
    parser.add_argument("--rate", type=float, default=150.0, help="items per second of one worker")
    parser.add_argument("--wired", action="store_true", help="this is a network of our own: make another, and cut it")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    flags = parser.parse_args(arguments)
    plan = Plan(flags.seed, flags.kills, flags.items, flags.rate)
    sys.stdout.write(
        f"storm: seed {plan.seed}, {plan.kills} kills, {'with' if flags.wired else 'without'} cuts of the network; "
        f"about {plan.kills * 2.5 / 60 + 1:.0f} minutes, at most {plan.most_seconds / 60:.0f}\n"
    )
    sys.stdout.flush()
    folder = flags.folder or Path(tempfile.mkdtemp(prefix="cfbus-storm-"))
    try:
        verdict = run(plan, folder, wired=flags.wired)
    except AssertionError as error:
        sys.stdout.write(f"storm: FAILED, seed {plan.seed}, logs in {folder}: {error}\n")
        return 1
    sys.stdout.write(f"{verdict.told()}\n")
    if verdict.problem:
        sys.stdout.write(f"storm: FAILED, seed {plan.seed}, logs in {folder}: {verdict.problem}\n")
    return 1 if verdict.problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
