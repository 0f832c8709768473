"""The broker's core alone: how many leases it grants, results it passes on and results it settles in a second of the
processor, and what it takes to remember which items are done. No sockets, no encoding, one thread.

Run as ``python -m benchmarks.cores ITEMS LENGTH`` it prints the memory for one case, which needs a process of its own;
as ``python -m benchmarks.cores rates LEASES SHARDS`` the rates with at least so many shards.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Core, Memory

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import encode_table
from cfbus.core.broker import Broker
from cfbus.core.effects import Effect, Peer, Send
from cfbus.core.passes import Pass, Shards
from cfbus.core.state import Remembered, Rules

SHARD_ITEMS = 100_000
CHUNK_ITEMS = 1000
RESULT_ITEMS = 64
COMMIT_RESULTS = 64
WORKERS = 100
MEMORY_SHARD_ITEMS = 10_000
MEMORY_SHARE = 0.3
MEMORY_CASES = ((1_000_000, 64), (1_000_000, 8), (10_000_000, 64), (10_000_000, 8))


class Bus:
    """A broker's core between a writer and workers that say what the benchmark wants."""

    def __init__(self, shards: int) -> None:
        self._number = 0
        self._now = 0.0
        self.leases: list[tuple[Peer, m.Grant]] = []  # in the order of granting
        slot = m.Slot(name="caption", prompt="Describe this image.", prompt_id="bench")
        spec = m.Spec(hash="0" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=(slot,))
        rules = Rules(dataset="bench", spec=spec, instance="f" * 16, chunk_size=CHUNK_ITEMS)
        self.core = Broker(rules, self._id, Remembered(), 0.0)
        self._writer = Peer("writer", "SHA256:w", "owner", m.Role.WRITER)
        self.workers = [Peer(f"worker {n}", f"SHA256:{n}", f"c-{n}", m.Role.WORKER) for n in range(WORKERS)]
        facts = m.StoreFacts(store_id="a" * 16, dataset="bench", position=0)
        self.say(self._writer, self._hello(m.Role.WRITER, "e" * 16, facts))
        names = [f"shard-{n:05d}" for n in range(shards)]
        table = encode_table(build("shards", shards, {"length": [SHARD_ITEMS] * shards, "name": names}))
        passes = (m.PassFacts(number=1, slots=("caption",)),)
        state = m.State(table="shards", first=0, position=0, passes=passes, snapshot=True, last=True)
        for effect in self.say(self._writer, state, table):
            if isinstance(effect, Send) and isinstance(effect.message, m.Task):
                self.say(self._writer, m.Done(task=effect.message.task))
        for worker in self.workers:
            self.say(worker, self._hello(m.Role.WORKER, self.instance(worker)))

    def _id(self) -> str:
        self._number += 1
        return f"{self._number:016x}"

    @staticmethod
    def instance(worker: Peer) -> str:
        """The instance that a worker says it is."""
        return f"{int(worker.key.removeprefix('SHA256:')):016x}"

    @staticmethod
    def _hello(role: m.Role, instance: str, store: m.StoreFacts | None = None) -> m.Hello:
        return m.Hello(role=role, instance=instance, software="bench", name="bench", concurrency=64, store=store)

    def say(self, peer: Peer, message: m.Message, payload: bytes = b"") -> list[Effect]:
        """What follows from a message."""
        return self.core.handle(peer, message, payload, self._now, 0)

    def grant(self, worker: Peer) -> None:
        """A worker asks, the writer lists, the worker is granted a whole chunk."""
        asked = self.say(worker, m.Lease(want=CHUNK_ITEMS, rate=CHUNK_ITEMS, shard=None))
        (question,) = (e.message for e in asked if isinstance(e, Send) and isinstance(e.message, m.IndexShard))
        listed = m.Listed(shard=question.shard, start=question.start, rows=question.end - question.start)
        for effect in self.say(self._writer, listed):
            if isinstance(effect, Send) and isinstance(effect.message, m.Grant):
                self.leases.append((worker, effect.message))

    def commit(self, message: m.Commit) -> None:
        """The writer says what is durable."""
        self.say(self._writer, message)


def measure_core(leases: int = 5000, shards: int = 0) -> Core:
    """Grant that many leases to a hundred workers, pass on all their results, settle them."""
    # More than is granted: towards the end of a pass chunks become smaller.
    bus = Bus(max(shards, -(-(leases + 2 * WORKERS) * CHUNK_ITEMS // SHARD_ITEMS) + 1))
    began = time.process_time()
    for number in range(leases):
        bus.grant(bus.workers[number % WORKERS])
    granting = time.process_time() - began
    made = [(worker, grant, result) for worker, grant in bus.leases for result in _results(bus.instance(worker), grant)]
    began = time.process_time()
    for worker, _, result in made:
        bus.say(worker, result)
    passing = time.process_time() - began
    commits = _commits([(grant, result) for _, grant, result in made])
    began = time.process_time()
    for commit in commits:
        bus.commit(commit)
    settling = time.process_time() - began
    assert bus.core.done_items == leases * CHUNK_ITEMS
    return Core(
        grants=leases / granting,
        results=len(made) / passing,
        commits=len(commits) / settling,
        commits_settled=len(made) / settling,
    )


def _results(instance: str, grant: m.Grant) -> list[m.Result]:
    """The results of a whole lease, in order; their payloads are nothing to the core."""
    return [
        m.Result(
            lease=grant.lease, instance=instance, number=start, ranges=((start, min(start + RESULT_ITEMS, grant.end)),),
            size=0, crc=0,
        )
        for start in range(grant.start, grant.end, RESULT_ITEMS)
    ]  # fmt: skip


def _commits(made: Sequence[tuple[m.Grant, m.Result]]) -> list[m.Commit]:
    commits = []
    for start in range(0, len(made), COMMIT_RESULTS):
        group = made[start : start + COMMIT_RESULTS]
        stored = tuple(
            m.Stored(
                instance=result.instance, number=result.number, status="stored", pass_number=grant.pass_number,
                shard=grant.shard, ranges=result.ranges, new_items=RESULT_ITEMS,
            )
            for grant, result in group
        )  # fmt: skip
        position = start + len(group)
        commit = m.Commit(
            after=start, position=position, results=stored, room=1 << 30, shards=0, passes=1, captions=position,
            dead_letters=0,
        )  # fmt: skip
        commits.append(commit)
    return commits


def measure_memory(items: int, length: int) -> Memory:
    """Mark ``MEMORY_SHARE`` of the items done, in random ranges of ``length``, and see what the process grew by."""
    dice = random.Random(0)
    shards = Shards()
    for number in range(-(-items // MEMORY_SHARD_ITEMS)):
        shards.add(f"shard-{number:05d}", MEMORY_SHARD_ITEMS)
    walk = Pass(1, ("caption",), shards)
    before, began = _resident(), time.process_time()
    while walk.done_items < MEMORY_SHARE * items:
        shard, start = dice.randrange(len(shards)), dice.randrange(MEMORY_SHARD_ITEMS // length) * length
        walk.mark_done(shard, [(start, start + length)])
    seconds, grown = time.process_time() - began, _resident() - before
    ranges = sum(len(walk.done_in(shard, 0, MEMORY_SHARD_ITEMS)) for shard in range(len(shards)))
    return Memory(
        items=items, share=MEMORY_SHARE, length=length, ranges=ranges, mib=grown / (1 << 20),
        bytes_per_range=grown / ranges, seconds=seconds,
    )  # fmt: skip


def _resident() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1] == "rates":
        sys.stdout.write(measure_core(int(sys.argv[2]), int(sys.argv[3])).model_dump_json())
    else:
        sys.stdout.write(measure_memory(int(sys.argv[1]), int(sys.argv[2])).model_dump_json())
