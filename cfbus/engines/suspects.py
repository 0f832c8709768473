"""Which item kills the engine: those that were in flight are tried again, and in halves when it dies again. Pure.

Invariants: while anything is suspected, one group is tried at a time and nothing new begins; an item that finished is
cleared; only an item that was alone in flight when the engine died is guilty, and not if another one of its trial was
dropped, because that may have been the one; with n items in flight the search ends after at most 2·log2(n) + 2 deaths
for each guilty one, and one more for each that is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Suspects(Generic[T]):
    """Groups of items under suspicion, and the one on trial."""

    def __init__(self) -> None:
        self._groups: deque[list[T]] = deque()
        self._trial: list[T] = []
        self._doubtful = False  # one that was on trial was dropped: it may be the guilty one

    @property
    def any(self) -> bool:
        """Whether anything is suspected: nothing new may begin."""
        return bool(self._trial or self._groups)

    def died(self, in_flight: Iterable[T]) -> T | None:
        """The engine died with these in flight; the answer is who is guilty, if that is certain."""
        left = list(in_flight)
        on_trial, doubtful = bool(self._trial), self._doubtful
        self._trial, self._doubtful = [], False
        if on_trial and not doubtful and len(left) == 1:
            return left[0]
        if on_trial and len(left) > 1:
            middle = len(left) // 2
            self._groups.extendleft([left[middle:], left[:middle]])
        elif on_trial and left:
            self._groups.appendleft(left)
        elif left:
            self._groups.append(left)
        return None

    def next_group(self) -> list[T]:
        """The group to try now; empty while one is on trial, and when there is none."""
        while not self._trial and self._groups:
            self._trial, self._doubtful = self._groups.popleft(), False
            return list(self._trial)
        return []

    def clear(self, item: T) -> None:
        """The item finished."""
        for group in (self._trial, *self._groups):
            if item in group:
                group.remove(item)
        self._groups = deque(group for group in self._groups if group)

    def drop(self, item: T) -> None:
        """Nobody wants the item any more."""
        self._doubtful = self._doubtful or item in self._trial
        self.clear(item)
