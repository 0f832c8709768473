"""The writer's work for admins: a request whose answer was lost with a writer is answered by the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cfbus.core.effects import StartTask
from cfbus.core.tasks import Answer
from cfbus.daemons.amender import Amender
from cfbus.runtime import Loop
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import PassRow, RedoFacts, Tombstone

ITEMS = np.array([[0, 0, 4]], np.int64)
RESTORE = StartTask("a" * 16, "amend", (), b"", "restore", (("tombstone", "1"),))
CLOSE = StartTask("b" * 16, "amend", (), b"", "close-pass", (("pass", "2"),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A pass, a tombstone with its redo, and another redo."""
    with Store.open(tmp_path / "store", "birds", create=True) as opened, closing(Manifest.open(opened)) as manifest:
        manifest.add_pass(("short",))
        manifest.amend([(("short",), RedoFacts("a test", "mia", "7" * 16, 1), ITEMS)], None)
        stone = Tombstone(1, (("key", "x"),), ("captions",), 9, 0, "a test", "mia", "8" * 16, 1)
        manifest.amend([(("short",), RedoFacts("a test", "mia", "8" * 16, 1, tombstone=1), ITEMS)], stone)
        yield opened


def ask(store: Store, task: StartTask) -> tuple[Answer, list[PassRow]]:
    """What a writer that has just started answers, and which passes it tells of."""
    answers: list[Answer] = []
    changed: list[PassRow] = []
    with closing(Manifest.open(store)) as manifest:
        Amender(Loop(), store, manifest, changed.extend, lambda _, answer: answers.append(answer)).begin(task)
    [answer] = answers
    return answer, changed


@pytest.mark.parametrize(
    ("task", "facts", "again"),
    [
        (RESTORE, (("restored", "1"), ("closed_passes", "3")), "Tombstone 1 was removed before"),
        (CLOSE, (("closed_passes", "2"),), "Pass 2 is closed already"),
    ],
)
def test_the_same_request_is_answered_as_before_and_another_is_not(
    store: Store, task: StartTask, facts: tuple[tuple[str, str], ...], again: str
) -> None:
    first, changed = ask(store, task)
    assert (first.problem, first.facts, [row.closed for row in changed]) == ("", facts, [True])
    assert ask(store, task) == (first, [])
    other = StartTask("c" * 16, task.kind, (), b"", task.verb, task.arguments)
    assert again in ask(store, other)[0].problem
