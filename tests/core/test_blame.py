"""When a stranger's claim against an item is believed."""

from __future__ import annotations

from cfbus.core.blame import NOT_THE_ITEM_FACTOR, Claims

PLACE = (1, 0, 7)
PASSES = frozenset({1})
A, B = frozenset({"a"}), frozenset({"a", "b"})


def test_a_second_contributor_decides() -> None:
    claims = Claims(9)
    assert claims.accuse(PLACE, "a", "broken", "item", "") is None
    letter = claims.accuse(PLACE, "b", "cut off", "item", "at byte 7")
    assert letter is not None
    assert (letter.place, letter.reason, letter.attempts, letter.detail) == (PLACE, "cut off", 2, "at byte 7")
    assert letter.who == ("a", "b")
    assert len(claims) == 0
    assert claims.accused(1, 0) == []


def test_one_contributor_alone_needs_all_attempts() -> None:
    claims = Claims(3)
    assert [claims.accuse(PLACE, "a", "broken", "item", "") is None for _ in range(3)] == [True, True, False]


def test_faults_of_others_count_less() -> None:
    claims = Claims(2)
    verdicts = [claims.accuse(PLACE, name, "timeout", "network", "") for name in "ab" * NOT_THE_ITEM_FACTOR]
    assert [verdict is None for verdict in verdicts] == [True] * (2 * NOT_THE_ITEM_FACTOR - 1) + [False]
    assert verdicts[-1] is not None
    assert verdicts[-1].fault == "network"


def test_another_tries_first() -> None:
    claims = Claims(3)
    claims.accuse(PLACE, "a", "broken", "item", "")
    assert claims.next_for("a", PASSES, B) is None
    assert claims.next_for("b", frozenset(), B) is None
    assert claims.next_for("b", PASSES, B) == PLACE
    assert claims.next_for("b", PASSES, B) is None, "it is out already"
    claims.put_back(PLACE, "b")
    assert claims.next_for("a", PASSES, B) == PLACE, "b had it and did nothing"
    claims.put_back(PLACE, "a")
    assert claims.next_for("a", PASSES, A) == PLACE, "nobody else is there"
    claims.put_back(PLACE, "b")
    letter = claims.accuse(PLACE, "a", "broken", "item", "")
    assert letter is None, "silence is no claim"
    assert claims.accuse(PLACE, "a", "broken", "item", "") is not None


def test_what_its_holder_tries_is_not_given_out() -> None:
    claims = Claims(3)
    claims.accuse(PLACE, "a", "broken", "item", "")
    claims.wait_for_holder(PLACE)
    assert claims.next_for("b", PASSES, B) is None
    assert claims.accused(1, 0) == [7]


def test_a_caption_clears_the_item() -> None:
    claims = Claims(2)
    claims.accuse(PLACE, "a", "broken", "item", "")
    claims.clear(PLACE)
    assert (len(claims), claims.accused(1, 0)) == (0, [])
    assert claims.accuse(PLACE, "b", "broken", "item", "") is None
