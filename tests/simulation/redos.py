"""Redos on the simulated bus: an admin asks for some items again, or closes a redo; the writer's disk keeps both.

What must be true: a task opens one pass, however often it is asked for; of a redo exactly what it is over is captioned,
once; of a closed one nothing more than what was on its way.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.core import effects as e
from cfbus.core.ranges import pairs_of
from cfbus.core.tasks import Answer
from cfbus.core.writer import Writer

if TYPE_CHECKING:
    from simulation.world import World

RATES = (0.0, 0.0, 0.05, 0.3)
MOST = 3


class Redos:
    """Chance of its own, so that a seed without redos goes as it would."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"redos of {world.plan}")
        self.rate = self._rng.choice(RATES)
        self._asked = 0

    def ask(self) -> None:
        """An admin wants something again, or a redo to end."""
        world, broker = self._world, self._world.broker
        if broker is None or broker.writer is None or not broker.writer.caught_up or self._asked >= MOST:
            return
        self._asked += 1
        open_ = [number for number, walk in broker.passes.items() if walk.is_redo and not walk.closed]
        close = bool(open_) and self._rng.random() < 0.4
        arguments = (("pass", str(self._rng.choice(open_))),) if close else ()
        slots = tuple(slot.name for slot in broker.rules.spec.slots)
        verb = "close-pass" if close else "requeue"
        task = m.Task(task=world.new_id(), kind="amend", slots=slots, verb=verb, arguments=arguments)
        world.seen[f"redo: {verb}"] += 1
        world.tell(f"asked: {verb} {arguments}")
        world.broker_effects(broker.settle(broker.catchup.give(task), world.now))

    def carry_out(self, core: Writer, task: e.StartTask) -> list[e.Effect]:
        """The writer's shell does it, and tells its core."""
        disk = self._world.disk
        if task.task in disk.redone:
            self._world.seen["redo: asked twice"] += 1
            return core.task_ended(task.task, Answer())
        opened = self._close(core, task) if task.verb == "close-pass" else self._open(core, task)
        return [*opened, *core.task_ended(task.task, Answer())]

    def _close(self, core: Writer, task: e.StartTask) -> list[e.Effect]:
        number = int(dict(task.arguments)["pass"])
        self._world.disk.closed.add(number)
        self._world.disk.redone.add(task.task)
        return core.pass_opened(self.facts(number))

    def _open(self, core: Writer, task: e.StartTask) -> list[e.Effect]:
        disk = self._world.disk
        full = [slots for number, slots in enumerate(disk.passes, 1) if number not in disk.selected]
        able = [slots for slots in full if set(slots) <= set(task.slots)]
        places = [(shard, index) for shard, (_, length) in enumerate(disk.shards) for index in range(length)]
        if not able or not places:
            return []
        share = self._rng.choice([0.05, 0.3, 1.0])
        chosen = {place for place in places if self._rng.random() < share} or {self._rng.choice(places)}
        number = disk.open_redo(self._rng.choice(able), chosen, task.task)
        return core.pass_opened(self.facts(number), self.selected(number))

    def facts(self, number: int) -> m.PassFacts:
        """A pass as the disk has it."""
        disk = self._world.disk
        items = len(disk.selected[number]) if number in disk.selected else None
        return m.PassFacts(number=number, slots=disk.passes[number - 1], items=items, closed=number in disk.closed)

    def selected(self, number: int) -> list[tuple[int, int, int]]:
        """What a redo is over; nothing of another pass."""
        chosen = self._world.disk.selected.get(number, set())
        return [
            (shard, start, end)
            for shard in {shard for shard, _ in chosen}
            for start, end in pairs_of(sorted(index for own, index in chosen if own == shard))
        ]
