"""The writer's core: what is new, what is a duplicate, what is refused, and what is told to the broker.

Sans-IO, see ``cfbus.core.effects``. A result is checked as a whole before it is staged, so that sealing can never
fail on content. Staged frames become durable together: the shell writes ``staged_frames()`` in one transaction and
then calls ``stored()``, or ``not_stored()`` when there was no room, which forgets them as if they had never come (their
workers still have them).

Invariants: an item is done in the inventory exactly when the journal or a segment has it, or its pass is closed; COMMIT
names a result only after that; positions have no gaps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cfbus.bus import messages as m
from cfbus.bus.columns import Table
from cfbus.bus.fields import PAGE_BYTES
from cfbus.bus.wire import WireError, checksum, decode_table
from cfbus.core.effects import Effect, Note, ProbeRoom, ReadListing, Send, Stop
from cfbus.core.frame import JournalFrame
from cfbus.core.inventory import Inventory
from cfbus.core.pages import entry_bytes, pages
from cfbus.core.ranges import RangeSet, size
from cfbus.core.tally import Counts, Rows, Tallies, counts_of
from cfbus.core.tasks import Answer, Tasks
from cfbus.core.telling import StatePage

BROKER = "broker"
HELLO_SECONDS = 3.0
MOST_RETRY_SECONDS = 300.0
COMMIT_SECONDS = 1.0
TALLY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WriterRules:
    """How this writer is run."""

    store_id: str
    dataset: str
    instance: str
    name: str
    max_backlog: int = 256 << 20


@dataclass(frozen=True, slots=True)
class _Staged:
    stored: m.Stored
    frame: JournalFrame | None
    counts: Counts
    captions: int
    failures: int


class Writer:
    """The state of one store, as far as decisions need it."""

    def __init__(self, rules: WriterRules, position: int, now: float) -> None:
        self.rules = rules
        self.position = position
        self.captions = 0
        self.dead_letters = 0
        self.backlog = 0  # unsealed bytes that wait for a seal
        self.disk_full = False
        self._told = position
        self.inventory = Inventory()
        self._staged: list[_Staged] = []
        self._staged_done: dict[tuple[int, int], RangeSet] = {}
        self._staged_bytes = 0
        self._welcomed = False
        self._hello_at = now + HELLO_SECONDS  # the first comes with the connection
        self._commit_at = now
        self._tasks = Tasks()
        self.tallies = Tallies()
        self._tally_at = now

    # ------------------------------------------------------------------ what the store holds

    def know_totals(self, captions: int, dead_letters: int) -> None:
        """How many rows the store has."""
        self.captions, self.dead_letters = captions, dead_letters

    # ------------------------------------------------------------------ events

    def connected(self, now: float) -> list[Effect]:
        """There is a way to the broker (again)."""
        self._welcomed = False
        return self._hello(now)

    def _hello(self, now: float) -> list[Effect]:
        self._hello_at = now + HELLO_SECONDS
        facts = m.StoreFacts(store_id=self.rules.store_id, dataset=self.rules.dataset, position=self.position)
        hello = m.Hello(
            role=m.Role.WRITER,
            instance=self.rules.instance,
            software="cfbus",
            name=self.rules.name,
            store=facts,
        )
        return [Send(BROKER, hello)]

    def handle(self, message: m.Message, payload: bytes, now: float) -> list[Effect]:
        """The broker said something."""
        match message:
            case m.Result():
                self._result(message, payload)
                return []
            case m.IndexShard():
                return [ReadListing(BROKER, message.shard, message.start, message.end)]
            case m.Welcome():
                self._welcomed = self.tallies.changed = True
                return [Note("bus.welcomed", (("dataset", message.dataset),))]
            case m.Since():
                return self._state(message)
            case m.Task():
                return self._task(message, payload)
            case m.Error():
                return self._error(message, now)
            case _:
                return []

    def _error(self, message: m.Error, now: float) -> list[Effect]:
        if message.fatal:
            return [Stop(f"The broker refuses this writer: {message.sentence}")]
        if message.code == "hello-first":
            # Once, however many of our messages were refused for it.
            return self.connected(now) if self._welcomed or now >= self._hello_at else []
        self._hello_at = max(self._hello_at, now + min(message.retry_after, MOST_RETRY_SECONDS))
        return [Note("bus.error", (("code", message.code), ("sentence", message.sentence)))]

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        if not self._welcomed:
            return self._hello(now) if now >= self._hello_at else []
        effects: list[Effect] = []
        if now >= self._commit_at:
            effects = [*([ProbeRoom()] if self.disk_full else []), *self._commits([], now)]
        return effects + self._tally(now)

    def next_deadline(self) -> float:
        """When ``tick`` has something to do."""
        if not self._welcomed:
            return self._hello_at
        return min(self._commit_at, self._tally_at) if self.tallies.changed else self._commit_at

    # ------------------------------------------------------------------ results

    @property
    def staged_bytes(self) -> int:
        """Bytes that wait for the next transaction."""
        return self._staged_bytes

    def staged_frames(self) -> list[JournalFrame]:
        """What the next transaction should make durable."""
        return [staged.frame for staged in self._staged if staged.frame is not None]

    @property
    def has_staged(self) -> bool:
        """Something waits for ``stored``, were it only the answer to a duplicate."""
        return bool(self._staged)

    def stored(self, now: float) -> list[Effect]:
        """What was staged is durable."""
        staged, self._staged, self._staged_bytes = self._staged, [], 0
        for place, items in self._staged_done.items():
            self.inventory.know_done(place, items)
        self._staged_done.clear()
        self.disk_full = False
        for entry in staged:
            if entry.frame is not None:
                self.position = entry.frame.position
                self.tallies.add(entry.counts, entry.frame.contributor)
            self.captions += entry.captions
            self.dead_letters += entry.failures
        return self._commits(staged, now)

    def not_stored(self, now: float) -> list[Effect]:
        """There was no room: nothing of what was staged has happened."""
        self._staged.clear()
        self._staged_done.clear()
        self._staged_bytes = 0
        news = not self.disk_full
        self.disk_full = True
        return [*([Note("disk.full")] if news else []), *self._commits([], now)]

    def has_room(self, now: float) -> list[Effect]:
        """There is room on the disk again."""
        self.disk_full = False
        return [Note("disk.room-again"), *self._commits([], now)]

    def _result(self, message: m.Result, payload: bytes) -> None:
        problem, table = self._check(message, payload)
        if problem or table is None or message.origin is None:
            refused = m.Stored(instance=message.instance, number=message.number, status="refused", reason=problem[:200])
            self._staged.append(_Staged(refused, None, {}, 0, 0))
            return
        origin = message.origin
        place = (origin.pass_number, origin.shard)
        new = self.inventory.new_items(place, message.ranges, self._staged_done.get(place))
        stored = m.Stored(
            instance=message.instance,
            number=message.number,
            status="stored" if new else "duplicate",
            pass_number=origin.pass_number,
            shard=origin.shard,
            ranges=message.ranges,
            new_items=size(new),
        )
        if not new:
            self._staged.append(_Staged(stored, None, {}, 0, 0))
            return
        self._staged_done.setdefault(place, RangeSet()).update(new)
        rows = None if size(new) == size(message.ranges) else _rows(message.ranges, RangeSet(new))
        frame = self._frame(message, origin, payload, rows)
        self._staged_bytes += len(payload)
        failures = size(new) if message.table == "failures" else 0
        captions = 0 if failures else size(new) * len(table.slot_names)
        counts = {} if failures else counts_of(table, rows)
        self._staged.append(_Staged(stored, frame, counts, captions, failures))

    def _frame(self, message: m.Result, origin: m.Origin, payload: bytes, rows: Rows | None) -> JournalFrame:
        position = self.position + 1 + sum(staged.frame is not None for staged in self._staged)
        return JournalFrame(
            position=position,
            table=message.table,
            lease=message.lease,
            job=origin.job,
            pass_number=origin.pass_number,
            shard=origin.shard,
            ranges=message.ranges,
            mask=None if rows is None else np.packbits(rows, bitorder="little").tobytes(),
            contributor=origin.contributor,
            key=origin.key,
            received=origin.received,
            crc=message.crc,
            frame=payload,
        )

    def _check(self, message: m.Result, payload: bytes) -> tuple[str, Table | None]:
        """Everything that could be wrong with a result, before it is stored."""
        origin = message.origin
        if origin is None:
            return "the broker did not say whose it is", None
        facts = self.inventory.passes.get(origin.pass_number)
        if facts is None:
            return f"there is no pass {origin.pass_number}", None
        lengths = self.inventory.lengths
        if origin.shard >= len(lengths) or message.ranges[-1][1] > lengths[origin.shard]:
            return "items that the shard does not have", None
        if checksum(payload) != message.crc:
            return "damaged on the way (checksum)", None
        try:
            table = decode_table(message.table, payload)
        except WireError as error:
            return str(error), None
        if table.rows != size(message.ranges):
            return f"{table.rows} items in the payload, {size(message.ranges)} in the header", None
        if message.table == "captions" and table.slot_names != facts.slots:
            return "not the slots of the pass", None
        return "", table

    # ------------------------------------------------------------------ what is told

    @property
    def state(self) -> Literal["open", "full", "disk-full"]:
        """Whether results are welcome."""
        if self.disk_full:
            return "disk-full"
        return "full" if self.backlog >= self.rules.max_backlog else "open"

    def _commits(self, staged: list[_Staged], now: float) -> list[Effect]:
        self._commit_at = now + COMMIT_SECONDS
        if not self._welcomed:
            self._told = self.position
            return []
        groups = list(pages(staged, lambda it: entry_bytes(it.stored.ranges, it.stored.reason), PAGE_BYTES))
        return [self._commit(group, last=at == len(groups) - 1) for at, group in enumerate(groups)]

    def _commit(self, group: list[_Staged], *, last: bool) -> Effect:
        after = self._told
        ends = [entry.frame.position for entry in group if entry.frame is not None]
        self._told = self.position if last else max(ends, default=after)
        commit = m.Commit.model_construct(
            after=after,
            position=self._told,
            results=tuple(entry.stored for entry in group),
            room=max(self.rules.max_backlog - self.backlog - self._staged_bytes, 0),
            state=self.state,
            shards=len(self.inventory.lengths),
            passes=len(self.inventory.passes),
            captions=self.captions,
            dead_letters=self.dead_letters,
        )
        return Send(BROKER, commit)

    def _tally(self, now: float) -> list[Effect]:
        if now < self._tally_at or not self.tallies.changed:
            return []
        self._tally_at = now + TALLY_SECONDS
        return [Send(BROKER, self.tallies.message(self.backlog))]

    def _state(self, message: m.Since) -> list[Effect]:
        """The whole state, in pages: passes and what they are over, shards that the broker does not know, then all
        that is done."""
        told = self.inventory.pages(message.shards)
        last = len(told) - 1
        return [
            Send(BROKER, page.message(self.position, number, last=number == last), page.payload)
            for number, page in enumerate(told)
        ]

    def _news(self, told: list[StatePage]) -> list[Effect]:
        return [Send(BROKER, page.message(self.position), page.payload) for page in told]

    # ------------------------------------------------------------------ tasks

    def _task(self, message: m.Task, payload: bytes) -> list[Effect]:
        covered = self.inventory.slots
        slots = tuple(slot for slot in message.slots if slot not in covered or message.kind != "open-pass")
        news: list[Effect] = []
        if message.kind == "open-pass" and slots != message.slots:
            # The broker does not know of passes that there are.
            news = self._news(self.inventory.pass_pages())
        return news + self._tasks.asked(message, payload, slots)

    def task_ended(self, task: str, answer: Answer) -> list[Effect]:
        """The shell did what was asked, or could not."""
        effects, again = self._tasks.ended(task, answer)
        return effects + [effect for message in again for effect in self._task(message, b"")]

    def shards_listed(self, shards: Iterable[tuple[str, int]]) -> list[Effect]:
        """New shards are durable in the listing."""
        first = len(self.inventory.lengths)
        for name, length in shards:
            self.inventory.know_shard(name, length)
        return self._news(self.inventory.shard_pages(first))

    def pass_opened(self, facts: m.PassFacts, selected: Iterable[tuple[int, int, int]] = ()) -> list[Effect]:
        """A pass is durable in the manifest, or that one is closed."""
        self.inventory.know_pass(facts, selected)
        return self._news(self.inventory.pass_pages(facts.number))


def _rows(ranges: m.Ranges, new: RangeSet) -> Rows:
    """Which of these items, in order, are new."""
    indices = (index for start, end in ranges for index in range(start, end))
    return np.fromiter((index in new for index in indices), np.bool_, size(ranges))
