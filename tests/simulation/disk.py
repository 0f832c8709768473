"""The simulated disks: what survives a crash, and what must be true of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cfbus.bus import messages as m
from cfbus.bus.wire import decode_table
from cfbus.core import effects as e
from cfbus.core.frame import JournalFrame

Place = tuple[int, int, int]
"""Pass, shard, index."""
PADDING = "."


def caption_of(slot: str, shard: int, index: int, generation: int | str) -> str:
    """The one right caption by the prompts of this generation."""
    return f"{slot} of {shard}/{index} by {generation}"


@dataclass
class Disk:
    """The writer's."""

    shards: list[tuple[str, int]] = field(default_factory=list)
    passes: list[tuple[str, ...]] = field(default_factory=list)
    frames: list[JournalFrame] = field(default_factory=list)
    items: set[Place] = field(default_factory=set)
    dead: set[Place] = field(default_factory=set)
    selected: dict[int, set[tuple[int, int]]] = field(default_factory=dict)  # of redos: what they are over
    closed: set[int] = field(default_factory=set)
    redone: set[str] = field(default_factory=set)

    def open_redo(self, slots: tuple[str, ...], selected: set[tuple[int, int]], task: str) -> int:
        """A redo becomes durable; its number."""
        assert task not in self.redone, f"{task} opens a second pass"
        self.redone.add(task)
        self.passes.append(slots)
        self.selected[len(self.passes)] = selected
        return len(self.passes)

    def wants(self, place: Place) -> bool:
        """Whether this is to be done, or was: not where a redo is over other items, or is closed."""
        number, *item = place
        return number not in self.closed and tuple(item) in self.selected.get(number, {tuple(item)})

    def open_pass(self, slots: tuple[str, ...]) -> None:
        """A pass becomes durable; no slot may be filled twice."""
        whole = [own for number, own in enumerate(self.passes, 1) if number not in self.selected]
        assert not {slot for own in whole for slot in own} & set(slots), f"{slots} have a pass already"
        self.passes.append(slots)

    def write(self, frame: JournalFrame) -> None:
        """A frame becomes durable; every item of it that counts must be new, and right."""
        assert frame.position == len(self.frames) + 1, "positions have gaps"
        self.frames.append(frame)
        table = decode_table(frame.table, frame.frame)
        indices = [index for start, end in frame.ranges for index in range(start, end)]
        assert table.rows == len(indices), "a frame has other rows than items"
        texts = table.text("caption").texts() if frame.table == "captions" else []
        slots = self.passes[frame.pass_number - 1]
        for at, index in enumerate(indices):
            if frame.mask is not None and not frame.mask[at // 8] >> at % 8 & 1:
                continue
            place = (frame.pass_number, frame.shard, index)
            assert place not in self.items, f"{place} is stored twice"
            assert index < self.shards[frame.shard][1], f"{place} is no item"
            assert place[0] in self.closed or self.wants(place), f"{place} is not of its redo"
            self.items.add(place)
            if frame.table == "failures":
                self.dead.add(place)
                continue
            got = [text.rstrip(PADDING) for text in texts[at * len(slots) : (at + 1) * len(slots)]]
            assert table.slot_names == slots, f"{place} has other slots"
            by = table.constants["generation"]
            right = [caption_of(slot, frame.shard, index, by) for slot in slots]
            assert got == right, f"{place} has another's caption, or one by another generation: {got}"


@dataclass
class Ledger:
    """The broker's."""

    leases: dict[str, e.LeaseRow] = field(default_factory=dict)
    store: tuple[str, int] = ("", 0)
    granted: int = 0
    generation: int = 0
    spec: str = ""

    def apply(self, effect: e.Effect) -> bool:
        """Carry out what has to be durable before anything is sent."""
        if isinstance(effect, e.SaveLease):
            self.granted = max(self.granted, int(effect.row.job.rpartition(".")[2]))
            self.leases[effect.row.lease] = effect.row
        elif isinstance(effect, e.DropLeases):
            for lease in effect.leases:
                self.leases.pop(lease, None)
        elif isinstance(effect, e.SaveGeneration):
            self.generation, self.spec = effect.generation, effect.spec
        elif isinstance(effect, e.SavePosition):
            self.store = (effect.store_id, effect.position)
        else:
            return False
        return True


Spool = dict[tuple[str, int], tuple[m.Result, bytes]]
