"""What broker and writer say to each other: what is durable, what there is, tasks.

Part of the protocol; `cfbus.bus.messages` has the rules for all messages.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cfbus.bus.fields import (
    LENGTH_CLASSES,
    MAX_PASSES,
    MAX_ROWS,
    MAX_TALLIED,
    Cells,
    Count,
    End,
    Id,
    Index,
    Message,
    Overrides,
    Part,
    PassNumber,
    Ranges,
    Reason,
    SlotName,
    Slots,
    Text,
    Word,
)


class Stored(Part):
    """What became of one result. `ranges` are the items that are durable because of it or were before."""

    instance: Id
    number: Count
    status: Literal["stored", "duplicate", "refused"]
    pass_number: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    shard: Index = 0
    ranges: Ranges = ()
    new_items: Count = 0
    reason: Reason = ""


class Commit(Message):
    """All results up to `position` are durable. `after` is the position of the COMMIT before it: a broker that
    is not there has missed one and asks with SINCE. Repeated each second without entries."""

    TAG: ClassVar[str] = "COMMIT"
    after: Count
    position: Count
    results: Annotated[tuple[Stored, ...], Field(max_length=512)] = ()
    room: Count
    state: Literal["open", "full", "disk-full"] = "open"
    shards: Count
    passes: Count
    captions: Count
    dead_letters: Count


class SlotTally(Part):
    """The captions of one slot since the writer started: `flags` in the order empty, truncated, refused, repeated;
    `lengths` by class: empty, below 16 bytes, below 32, and so on."""

    slot: SlotName
    captions: Count
    tokens: Count
    flags: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4)]
    lengths: Annotated[tuple[Count, ...], Field(min_length=LENGTH_CLASSES, max_length=LENGTH_CLASSES)]


class Credit(Part):
    """How many captions of a contributor the store has."""

    contributor: Word
    captions: Count


class Tally(Message):
    """What the captions are like, counted as they became durable. Told every few seconds while it changes; whole, so
    that a lost one does not matter."""

    TAG: ClassVar[str] = "TALLY"
    slots: Annotated[tuple[SlotTally, ...], Field(max_length=MAX_TALLIED)]
    credits: Annotated[tuple[Credit, ...], Field(max_length=MAX_TALLIED)]
    contributors: Count
    unsealed_bytes: Count


class Since(Message):
    """The broker wants the writer's whole state again, shards from number `shards` on."""

    TAG: ClassVar[str] = "SINCE"
    shards: Count


class PassFacts(Part):
    """A pass as the store knows it. A redo has so many `items`, which `selected` tables name, and is captioned with
    `overrides`; a pass without is over all items. Of a `closed` one nothing more is to be done."""

    number: PassNumber
    slots: Slots
    items: Count | None = None
    overrides: Overrides = ()
    closed: bool = False


class State(Message):
    """A page of the writer's state, its payload a `shards`, `selected` or `done` table. The pages of an answer to SINCE
    (`snapshot`) count from 0 and the last has `last` set; only when all came in order is the broker caught up.
    Also sent with new shards as they are listed, and with passes as they are opened or closed. A redo counts as a
    pass when all its items have come."""

    TAG: ClassVar[str] = "STATE"
    PAYLOAD: ClassVar[bool] = True
    table: Literal["shards", "selected", "done"]
    first: Count
    position: Count
    passes: Annotated[tuple[PassFacts, ...], Field(max_length=MAX_PASSES)] = ()
    snapshot: bool
    page: Count = 0
    last: bool


class IndexShard(Message):
    """The broker needs the listing of items [start, end) of a shard."""

    TAG: ClassVar[str] = "INDEX"
    shard: Index
    start: Index
    end: End


class Listed(Message):
    """A page of a shard's listing from `start` on; the payload is a `listing` table."""

    TAG: ClassVar[str] = "LISTED"
    PAYLOAD: ClassVar[bool] = True
    shard: Index
    start: Index
    rows: Count


class Task(Message):
    """The broker asks the writer for work that takes a while. Doing one twice is harmless.

    `scan`: list what the source holds and is not listed yet. `open-pass`: make `slots` a new pass.
    `seal`: seal all that is durable. `jobs`, `contributors`: replace that snapshot by the payload.
    `amend`: change what counts of what is stored, when what is durable is sealed; `look`: read it. Both do `verb` with
    `arguments`; `slots` are those of the configuration.
    """

    TAG: ClassVar[str] = "TASK"
    PAYLOAD: ClassVar[bool] = True
    task: Id
    kind: Literal["scan", "open-pass", "seal", "jobs", "contributors", "amend", "look"]
    slots: Slots | tuple[()] = ()
    verb: Annotated[str, Field(max_length=64)] = ""
    arguments: Annotated[tuple[tuple[Word, Text], ...], Field(max_length=16)] = ()


class Progress(Message):
    """How far a task is."""

    TAG: ClassVar[str] = "PROGRESS"
    task: Id
    count: Count


class Done(Message):
    """A task ended; `problem` is empty when it went well, else a sentence. An `amend` or `look` has an answer: `facts`,
    and a table of which only the first rows may be there."""

    TAG: ClassVar[str] = "DONE"
    task: Id
    problem: Text = ""
    count: Count = 0
    facts: Annotated[tuple[tuple[Word, Text], ...], Field(max_length=64)] = ()
    columns: Cells = ()
    rows: Annotated[tuple[Cells, ...], Field(max_length=MAX_ROWS)] = ()
