"""A pass against a model that knows of each item whether it is done or held."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cfbus.core.passes import Pass, Shards
from cfbus.core.ranges import pairs_of

LENGTH = 12
INDEX = st.integers(0, LENGTH)
SHARD = st.integers(0, 3)


class PassMachine(RuleBasedStateMachine):
    """Shards appear, chunks are taken, held, released and done, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.shards = Shards()
        self.walk = Pass(1, ("a",), self.shards)
        self.done: set[tuple[int, int]] = set()
        self.held: set[tuple[int, int]] = set()

    def _cut(self, shard: int, start: int, end: int) -> set[int]:
        return set(range(start, min(end, self.shards.lengths[shard]))) if shard < len(self.shards) else set()

    @rule(length=st.integers(1, LENGTH))
    def listed(self, length: int) -> None:
        if len(self.shards) < 4:
            self.shards.add(f"s{len(self.shards)}", length)

    @rule(count=st.integers(1, 6), near=st.none() | SHARD)
    def take(self, count: int, near: int | None) -> None:
        taken = self.walk.take(count, near)
        free = {
            (shard, index)
            for shard, length in enumerate(self.shards.lengths)
            for index in range(length)
            if (shard, index) not in self.done | self.held
        }
        if taken is None:
            assert not free
            return
        shard, pairs = taken
        items = {(shard, index) for start, end in pairs for index in range(start, end)}
        assert items <= free
        assert len(items) == min(count, len({index for own, index in free if own == shard}))
        self.held |= items

    @rule(shard=SHARD, start=INDEX, end=INDEX)
    def mark_done(self, shard: int, start: int, end: int) -> None:
        items = self._cut(shard, start, end)
        if items:
            new = {(shard, index) for index in items} - self.done
            assert self.walk.mark_done(shard, pairs_of(sorted(items))) == len(new)
            self.done |= new
            self.held -= new

    @rule(shard=SHARD, start=INDEX, end=INDEX)
    def hold(self, shard: int, start: int, end: int) -> None:
        items = self._cut(shard, start, end)
        if items:
            self.walk.hold(shard, pairs_of(sorted(items)))
            self.held |= {(shard, index) for index in items} - self.done

    @rule(shard=SHARD, start=INDEX, end=INDEX)
    def release(self, shard: int, start: int, end: int) -> None:
        items = self._cut(shard, start, end)
        if items:
            back = {(shard, index) for index in items} & self.held
            assert self.walk.release(shard, pairs_of(sorted(items))) == len(back)
            self.held -= back

    @rule()
    def forget(self) -> None:
        self.walk.forget()
        self.done.clear()

    @invariant()
    def same(self) -> None:
        self.walk.check()
        items = sum(self.shards.lengths)
        assert (self.walk.done_items, self.walk.held_items) == (len(self.done), len(self.held))
        assert self.walk.free_items == items - len(self.done) - len(self.held)
        assert self.walk.complete == (len(self.done) == items)
        for shard, length in enumerate(self.shards.lengths):
            done = {index for own, index in self.done if own == shard}
            assert self.walk.done_in(shard, 0, length) == pairs_of(sorted(done))
            assert self.walk.undone_in(shard, [(0, length)]) == pairs_of(sorted(set(range(length)) - done))
            assert self.walk.shard_complete(shard) == (len(done) == length)


PassMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_a_pass_knows_each_item = PassMachine.TestCase


def test_a_worker_stays_in_its_shard_while_that_has_items() -> None:
    shards = Shards()
    shards.add("s0", 4)
    shards.add("s1", 4)
    walk = Pass(1, ("a",), shards)
    assert walk.take(2, None) == (0, ((0, 2),))
    assert walk.take(2, 0) == (0, ((2, 4),))
    assert walk.take(2, 0) == (1, ((0, 2),))
