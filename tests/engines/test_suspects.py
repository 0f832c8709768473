"""Who killed the engine is found in few deaths, and nobody else is blamed."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from cfbus.engines.suspects import Suspects

NOBODY: Mapping[int, int] = {}


def search(
    count: int, guilty: set[int], first: list[int] | None = None, dropped: Mapping[int, int] = NOBODY
) -> tuple[set[int], list[int], int]:
    """Run until nothing is suspected; items of a group finish in order, and a guilty one kills what is left. An item is
    dropped when the engine has died as often as ``dropped`` says: before that is known, as a death takes time.

    Returns who was found, who finished, and how often the engine died.
    """
    left = dict(dropped)
    suspects: Suspects[int] = Suspects()
    found: set[int] = set()
    finished: list[int] = []
    deaths = 1
    assert suspects.died(first if first is not None else range(count)) is None
    for _ in range(10_000):
        group = suspects.next_group()
        if not group:
            break
        assert suspects.next_group() == []
        while group:
            if group[0] in guilty:
                deaths += 1
                for item in [item for item, when in left.items() if when <= deaths]:
                    del left[item]
                    suspects.drop(item)
                    group = [one for one in group if one != item]
                one = suspects.died(group)
                if one is not None:
                    found.add(one)
                break
            item = group.pop(0)
            finished.append(item)
            suspects.clear(item)
    assert not suspects.any
    return found, finished, deaths


@given(count=st.integers(1, 64), data=st.data())
def test_the_guilty_are_found_and_everybody_else_finishes_once(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    found, finished, deaths = search(count, guilty)
    assert found == guilty
    assert sorted(finished) == sorted(set(range(count)) - guilty)
    assert deaths <= 1 + len(guilty) * (2 * count.bit_length() + 2)


@given(count=st.integers(1, 64), data=st.data())
def test_who_is_dropped_is_forgotten_and_puts_the_blame_on_nobody(count: int, data: st.DataObject) -> None:
    items = st.integers(0, count - 1)
    guilty = data.draw(st.sets(items, max_size=2))
    dropped = data.draw(st.dictionaries(items, st.integers(2, 8), max_size=3))
    found, finished, deaths = search(count, guilty, dropped=dropped)
    assert found <= guilty, "an innocent one is blamed"
    assert not found & set(finished)
    assert set(range(count)) - found - set(finished) <= set(dropped)
    assert len(finished) == len(set(finished))
    assert deaths <= 1 + len(guilty) * (2 * count.bit_length() + 2) + len(dropped)


def test_who_was_on_trial_with_a_dropped_one_is_tried_alone() -> None:
    suspects: Suspects[str] = Suspects()
    suspects.died("ab")
    assert suspects.next_group() == ["a", "b"]
    suspects.drop("b")
    assert suspects.died("a") is None
    assert suspects.next_group() == ["a"]
    assert suspects.died("a") == "a"


def test_a_death_by_itself_blames_nobody() -> None:
    assert search(1, set()) == (set(), [0], 1)
    assert search(0, set()) == (set(), [], 1)


def test_a_death_in_mid_trial_keeps_the_other_groups() -> None:
    suspects: Suspects[str] = Suspects()
    suspects.died("abcd")
    assert suspects.next_group() == list("abcd")
    suspects.clear("a")
    suspects.died("bcd")
    assert suspects.next_group() == ["b"]
    suspects.clear("c")  # nobody wants it any more
    suspects.clear("b")
    assert suspects.next_group() == ["d"]
    assert suspects.any
    suspects.clear("d")
    assert not suspects.any
