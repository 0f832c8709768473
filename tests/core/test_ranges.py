"""Range sets against plain sets of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cfbus.core.ranges import RangeSet, Wholes, pairs_of, size

LIMIT = 40
INDEX = st.integers(0, LIMIT)


class RangeSetMachine(RuleBasedStateMachine):
    """Every change, compared with the same change of a set."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = RangeSet()
        self.model: set[int] = set()

    @rule(start=INDEX, end=INDEX)
    def add(self, start: int, end: int) -> None:
        new = set(range(start, end)) - self.model
        assert self.ranges.add(start, end) == len(new)
        self.model |= new

    @rule(start=INDEX, end=INDEX)
    def remove(self, start: int, end: int) -> None:
        gone = set(range(start, end)) & self.model
        assert self.ranges.remove(start, end) == len(gone)
        self.model -= gone

    @rule(items=st.sets(INDEX))
    def update(self, items: set[int]) -> None:
        assert self.ranges.update(pairs_of(sorted(items))) == len(items - self.model)
        self.model |= items

    @rule(items=st.sets(INDEX))
    def subtract(self, items: set[int]) -> None:
        assert self.ranges.subtract(RangeSet(pairs_of(sorted(items)))) == len(items & self.model)
        self.model -= items

    @rule(start=INDEX, end=INDEX)
    def look(self, start: int, end: int) -> None:
        assert self.ranges.within(start, end) == pairs_of(sorted(self.model & set(range(start, end))))
        assert self.ranges.missing(start, end) == pairs_of(sorted(set(range(start, end)) - self.model))

    @rule()
    def a_copy_is_its_own(self) -> None:
        other = self.ranges.copy()
        assert other == self.ranges
        other.add(0, LIMIT + 5)
        assert other != self.ranges

    @invariant()
    def same(self) -> None:
        pairs = self.ranges.pairs()
        assert list(self.ranges.items()) == sorted(self.model)
        assert len(self.ranges) == len(self.model) == size(pairs)
        assert bool(self.ranges) == bool(self.model)
        assert all(a < b for a, b in pairs)
        assert all(one[1] < other[0] for one, other in pairwise(pairs))
        assert self.ranges.spans() == len(pairs)
        assert self.ranges.first() == (pairs[0] if pairs else None)
        for count, pieces in ((3, 9), (9, 2)):
            far = [index for start, end in self.ranges.far_end(count, pieces) for index in range(start, end)]
            among = [index for start, end in pairs[-pieces:] for index in range(start, end)]
            assert far == among[-count:]
        assert all((index in self.ranges) == (index in self.model) for index in range(-1, LIMIT + 2))


RangeSetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_a_range_set_is_a_set = RangeSetMachine.TestCase


@given(st.sets(st.integers(0, 60)))
def test_indices_become_the_fewest_ranges(items: set[int]) -> None:
    pairs = pairs_of(sorted(items))
    assert [index for start, end in pairs for index in range(start, end)] == sorted(items)
    assert pairs == RangeSet((index, index + 1) for index in items).pairs()


def test_whole_sets_of_a_length_are_one() -> None:
    wholes = Wholes()
    first, second, part = RangeSet([(0, 7)]), RangeSet([(0, 3), (3, 7)]), RangeSet([(0, 6)])
    assert wholes.shared(first, 7) is wholes.shared(second, 7)
    assert wholes.shared(part, 7) is part
    assert wholes.shared(part, 6) == RangeSet([(0, 6)])
