"""What is remembered of shards is bounded, and says honestly since when it is all there is."""

from __future__ import annotations

from cfbus.core.story import LINES_KEPT, SHARDS_KEPT, Line, Story

STARTED = 5


def told(story: Story, shard: int, at: int, start: int = 0) -> None:
    story.tell(shard, Line(at, 1, start, start + 1, "leased"))


def test_all_is_remembered_since_the_start_as_long_as_there_is_room() -> None:
    story = Story()
    assert story.since(0, STARTED) == STARTED
    for at in range(LINES_KEPT - 1):
        told(story, 0, 10 + at)
    assert story.since(0, STARTED) == STARTED
    assert len(story.of(0)) == LINES_KEPT - 1


def test_a_long_story_begins_with_its_oldest_line() -> None:
    story = Story()
    for at in range(LINES_KEPT + 3):
        told(story, 0, 10 + at)
    assert story.since(0, STARTED) == story.of(0)[0].at == 13
    assert story.since(1, STARTED) == STARTED


def test_a_shard_that_was_forgotten_is_not_said_to_be_known_from_the_start() -> None:
    story = Story()
    for shard in range(SHARDS_KEPT + 1):
        told(story, shard, 100 + shard)
    assert story.of(0) == []
    assert story.since(0, STARTED) == 100
    assert story.since(1, STARTED) == 100, "whether it was forgotten before that is not known"
    told(story, 0, 900)
    assert story.since(0, STARTED) == 101, "the second shard went when the first came back"


def test_only_what_touches_the_items_is_told() -> None:
    story = Story()
    for start in range(4):
        told(story, 0, 10 + start, start)
    assert [line.start for line in story.of(0, (1, 3))] == [1, 2]
