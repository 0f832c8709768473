"""How near the end of a run comes to the ideal: the real cores of broker, writer and 64 workers on a simulated clock.

The other simulation looks for what is wrong; this one measures what is slow, so nothing is lost on its links, and it
has many more items. The cores are the real ones and every message goes from core to core; only tables are packed and
checked once for each length, because all captions are the same. See ``tail_plan`` for what the ideal is.

    .venv/bin/python tests/simulation/tail.py --seeds 20 --items 400000
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.tail_engine import Engine
from simulation.tail_plan import Cast, Part

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import decode_table, encode_table
from cfbus.core import effects as e
from cfbus.core import holding as holding_module
from cfbus.core import results as results_module
from cfbus.core import writer as writer_module
from cfbus.core.broker import Broker
from cfbus.core.outcome import Caption, EngineFacts, Outcome
from cfbus.core.ranges import pairs_of
from cfbus.core.state import Remembered, Rules
from cfbus.core.tasks import Answer
from cfbus.core.watching import status
from cfbus.core.worker import Worker, WorkerRules
from cfbus.core.writer import Writer, WriterRules

STORE = "5" * 16
CAPTIONS = (Caption("a caption"),)
SHARD_ITEMS = 4096
DELAY = (0.02, 0.1)
"""Seconds that a message takes, either way."""
COMMIT_SECONDS = 0.02
LOOK_SECONDS = 0.25
"""So often the broker's clock rings, and a worker's shell takes what its engine has finished."""
TOO_LATE = 3.0
"""A run that takes so many times the ideal does not end."""


@dataclass(frozen=True)
class Figures:
    """What came of a run. Shares are of all items."""

    seed: int
    items: int
    ideal: float
    end: float
    captioned_twice: int  # or more often
    thrown_away: int  # begun by somebody who was there to the end, and not finished
    lost: int  # begun by somebody who died or left
    leases: int
    backups: int
    messages: int

    @property
    def late(self) -> float:
        """End / ideal - 1."""
        return self.end / self.ideal - 1

    @property
    def waste(self) -> float:
        """The share that was captioned for nothing."""
        return (self.captioned_twice + self.thrown_away) / self.items

    def line(self) -> str:
        """For people."""
        return (
            f"seed {self.seed:>3}: ideal {self.ideal:7.1f} s, end {self.end:7.1f} s: {self.late:6.2%} late, "
            f"waste {self.waste:5.2%} (twice {self.captioned_twice}, thrown away {self.thrown_away}), "
            f"lost {self.lost}, {self.leases} leases, {self.backups} of them backups, "
            f"{self.messages / self.items:.2f} messages an item"
        )


@dataclass(eq=False)
class _Node:
    part: Part
    core: Worker | None
    engine: Engine
    delay: float  # seconds that a message takes, either way
    timer: float = float("inf")
    frozen_until: float = 0.0


@dataclass(eq=False)
class Tail:
    """One run."""

    cast: Cast
    seed: int
    now: float = 0.0
    messages: Counter[str] = field(default_factory=Counter)
    _finished: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._staged = False
        self._thrown_away = self._lost = 0
        slot = m.Slot(name="a", prompt="write", prompt_id="p")
        spec = m.Spec(hash="e" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=(slot,))
        self.broker = Broker(Rules("d", spec, self._id()), self._id, Remembered(), 0.0)
        self._writer = Writer(WriterRules(STORE, "d", self._id(), "writer"), 0, 0.0)
        shards = -(-self.cast.items // SHARD_ITEMS)
        for number in range(shards):
            self._writer.inventory.know_shard(f"s{number}", min(SHARD_ITEMS, self.cast.items - number * SHARD_ITEMS))
        self._writer.inventory.know_pass(m.PassFacts(number=1, slots=("a",)))
        self._nodes = [
            _Node(part, None, Engine(self._rng, part.speed, part.servers), self._rng.uniform(*DELAY))
            for part in self.cast.parts
        ]
        self._writer_peer = e.Peer("writer", "key-writer", "owner", m.Role.WRITER)

    def _id(self) -> str:
        return f"{next(self._numbers):016x}"

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Do this after so many seconds."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), call))

    def run(self) -> Figures:
        """Until everything is durable and the broker knows it."""
        ideal = self.cast.ideal
        self._write(self._writer.connected(0.0))
        self._ring()
        for node in self._nodes:
            self.later(node.part.joins, functools.partial(self._join, node))
        while not self.broker.finished:
            self.now, _, call = heapq.heappop(self._queue)
            assert self.now < TOO_LATE * ideal + 60, f"it does not end: {status(self.broker, self.now)}"
            call()
        self.broker.check()
        for node in self._nodes:
            if node.core is not None:
                self._thrown_away += node.engine.running
        twice = self._finished.total() - len(self._finished)
        counts = self.broker.counts
        return Figures(
            self.seed, self.cast.items, ideal, self.now, twice, self._thrown_away, self._lost, counts.granted,
            counts.backups, self.messages.total(),
        )  # fmt: skip

    # ------------------------------------------------------------------ broker and writer

    def _ring(self) -> None:
        self._broker_effects(self.broker.tick(self.now, 0))
        self._write(self._writer.tick(self.now))
        self.later(LOOK_SECONDS, self._ring)

    def _broker_hears(self, peer: e.Peer, message: m.Message, payload: bytes) -> None:
        self.messages[message.TAG] += 1
        self._broker_effects(self.broker.handle(peer, message, payload, self.now, 0))

    def _broker_effects(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, e.Send):
                assert not isinstance(effect, e.Stop), effect
            elif effect.to == "writer":
                self.messages[effect.message.TAG] += 1
                self._write(self._writer.handle(effect.message, effect.payload, self.now))
            else:
                self._to_worker(effect)

    def _write(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, e.Send):
                self._broker_hears(self._writer_peer, effect.message, effect.payload)
            elif isinstance(effect, e.ReadListing):
                rows = effect.end - effect.start
                listed = m.Listed(shard=effect.shard, start=effect.start, rows=rows)
                self.later(0.005, functools.partial(self._broker_hears, self._writer_peer, listed, _listing(rows)))
            elif isinstance(effect, e.StartTask):
                self._write(self._writer.task_ended(effect.task, Answer(count=self._writer.position)))
        if self._writer.has_staged and not self._staged:
            self._staged = True
            self.later(COMMIT_SECONDS, self._commit)

    def _commit(self) -> None:
        self._staged = False
        self._write(self._writer.stored(self.now))

    # ------------------------------------------------------------------ workers

    def _join(self, node: _Node) -> None:
        part = node.part
        rules = WorkerRules(self._id(), part.name, part.concurrency)
        node.core = Worker(rules, EngineFacts("scripted", "none"), self.now)
        self._carry_out(node, node.core.connected(self.now))
        self._wake_at(node)
        if part.leaves < float("inf"):
            self.later(max(part.leaves - self.now, 0.0), functools.partial(self._leave, node))
        if part.stalls < float("inf"):
            self.later(max(part.stalls - self.now, 0.0), functools.partial(self._stall, node))

    def _leave(self, node: _Node) -> None:
        if node.core is not None:
            self._lost += node.engine.running
            if node.part.how == "bye":
                self._carry_out(node, [*node.core.drain(self.now, at_once=True), *node.core.leave()])
            node.core = None

    def _stall(self, node: _Node) -> None:
        node.engine.stall(self.now, node.part.stalled)
        if not node.part.hears:
            node.frozen_until = self.now + node.part.stalled

    def _to_worker(self, send: e.Send) -> None:
        assert isinstance(send.to, tuple)
        node = self._nodes[send.to[0]]
        self.messages[send.message.TAG] += 1
        self.later(node.delay, functools.partial(self._hear, node, send.message, send.payload))

    def _hear(self, node: _Node, message: m.Message, payload: bytes) -> None:
        if node.core is None:
            return
        if self.now < node.frozen_until:
            self.later(node.frozen_until - self.now, functools.partial(self._hear, node, message, payload))
            return
        self._carry_out(node, node.core.handle(message, payload, self.now))
        self._feed(node)

    def _feed(self, node: _Node) -> None:
        assert node.core is not None
        room = node.part.concurrency - node.core.in_flight
        if room > 0:
            items = node.core.next_items(room)
            if items:
                node.engine.submit(items, self.now)
        self._wake_at(node)

    def _wake_at(self, node: _Node) -> None:
        assert node.core is not None
        due = max(min(node.core.next_deadline(), node.engine.next_end()), node.frozen_until, self.now)
        due = (due // LOOK_SECONDS + 1) * LOOK_SECONDS
        if due < node.timer:
            node.timer = due
            self.later(due - self.now, functools.partial(self._wake, node, due))

    def _wake(self, node: _Node, due: float) -> None:
        if node.core is None or node.timer != due:
            return
        node.timer = float("inf")
        if self.now >= node.frozen_until:
            items = node.engine.finished(self.now)
            if items:
                self._finished.update((item.shard, item.index) for item in items)
                outcomes = [Outcome(item.lease, item.index, CAPTIONS) for item in items]
                self._carry_out(node, node.core.outcomes(outcomes, self.now))
            if self.now >= node.core.next_deadline():
                self._carry_out(node, node.core.tick(self.now))
        self._feed(node)

    def _carry_out(self, node: _Node, effects: list[e.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, e.Send):
                peer = e.Peer((int(node.part.name[1:]), 0), f"key-{node.part.name}", node.part.name, m.Role.WORKER)
                heard = functools.partial(self._broker_hears, peer, effect.message, effect.payload)
                self.later(node.delay, heard)
            elif isinstance(effect, e.UseSpec):
                assert node.core is not None
                self._carry_out(node, node.core.applied("applied"))
            elif isinstance(effect, e.Abandon):
                for index in [index for start, end in effect.pairs for index in range(start, end)]:
                    self._thrown_away += node.engine.abandon((effect.lease, index), self.now)


# ---------------------------------------------------------------------- tables, once for each length


@functools.cache
def _listing(rows: int) -> bytes:
    return encode_table(build("listing", rows, {"key": ["k"] * rows, "locator": [b""] * rows}))


@contextmanager
def _tables_made_once() -> Iterator[None]:
    """Packing and checking tables is most of what a result costs, and here they are all the same."""
    pack, decode = results_module.pack, functools.cache(decode_table)
    made: dict[int, tuple[m.Result, bytes]] = {}

    def pack_once(outcomes: Sequence[Outcome], grant: m.Grant, *rest: Any) -> tuple[m.Result, bytes]:
        rows = len(outcomes)
        if rows not in made:
            made[rows] = pack(outcomes, grant, *rest)
        message, payload = made[rows]
        ranges = pairs_of(outcome.index for outcome in outcomes)
        own = {"lease": grant.lease, "instance": rest[2].instance, "number": rest[-1], "ranges": ranges}
        return message.model_copy(update=own), payload

    with ExitStack() as stack:
        for module, name, instead in (
            (results_module, "pack", pack_once),
            (holding_module, "decode_table", decode),
            (writer_module, "decode_table", decode),
        ):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, instead)
        yield


def measure(seed: int, items: int, *, calm: bool = False) -> Figures:
    """One seed."""
    with _tables_made_once():
        return Tail(Cast.of(seed, items, calm=calm), seed).run()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=9, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--items", type=int, default=200_000, help="items of a run")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--calm", action="store_true", help="everybody works from the beginning to the end")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    one = functools.partial(measure, items=options.items, calm=options.calm)
    with ProcessPoolExecutor(options.jobs) as pool:
        figures = []
        for each in pool.map(one, seeds):
            figures.append(each)
            print(each.line(), flush=True)
    print(summary(figures))
    return 0


def summary(figures: list[Figures]) -> str:
    """Of several seeds."""
    late = sorted(each.late for each in figures)
    waste = sorted(each.waste for each in figures)
    tenth = -(-len(figures) * 9 // 10) - 1
    return (
        f"{len(figures)} seeds: {statistics.median(late):.2%} late (median), {late[tenth]:.2%} (90 %), "
        f"{late[-1]:.2%} (worst); waste {statistics.median(waste):.2%}, {waste[tenth]:.2%}, {waste[-1]:.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
