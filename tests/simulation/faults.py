"""What goes wrong on the simulated bus, and what people do to it: breaks, crashes, stalls, drains, forgeries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation.disk import caption_of
from simulation.network import Node

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import checksum, encode_table
from cfbus.core.effects import LeaseRow
from cfbus.core.verbs_leases import drain, undrain
from cfbus.core.worker import Worker
from cfbus.core.writer import Writer

if TYPE_CHECKING:
    from simulation.world import World

DRAIN_PATIENCE = 12.0


class Faults:
    """Strikes while the storm lasts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._draining = False

    def begin(self) -> None:
        """Plan the first of each kind."""
        plan = self._world.plan
        for rate, fault in (
            (plan.breaks, self._break_a_link),
            (plan.cuts, self._cut_one_way),
            (plan.crashes, self._crash_something),
            (plan.stalls, self._stall_the_writer),
            (plan.drains, self._drain_a_worker),
            (plan.disk_full, self._fill_disk),
            (plan.drains / 2 if plan.feeders else 0.0, self._world.feeders.drain_one),
            (plan.drains / 4 if plan.feeders and self._world.seed % 2 == 0 else 0.0, self._drain_all),
            (1.0 if plan.hostile else 0.0, self._forge),
            (plan.reloads, self._world.reloads.reload),
            (self._world.redos.rate, self._world.redos.ask),
        ):
            if rate:
                self._again(rate, fault)
        if plan.new_slot_at is not None:
            self._world.later(plan.new_slot_at, self._new_slot)

    def _again(self, rate: float, fault: Callable[[], None]) -> None:
        def strike() -> None:
            if self._world.storm:
                fault()
                self._again(rate, fault)

        self._world.later(self._world.rng.expovariate(rate), strike)

    def _any_node(self) -> Node:
        return self._world.rng.choice(self._world.nodes)

    def _break_a_link(self) -> None:
        node = self._any_node()
        if node.linked:
            self._world.seen[f"link broken: {node.role.value}"] += 1
            self._world.net.unlink(node)

    def _cut_one_way(self) -> None:
        node, way = self._any_node(), self._world.rng.choice(["up", "down"])
        node.cut_until[way] = self._world.now + self._world.rng.uniform(0.5, 15.0)

    def _crash_something(self) -> None:
        victim = self._world.rng.choice([None, *self._world.nodes])
        if victim is None:
            self._world.crash_broker()
        elif victim.core is not None:
            self._world.crash(victim)

    def _stall_the_writer(self) -> None:
        """It is alive, and silent for longer than a lease."""
        world, node = self._world, self._world.writer
        if node.core is None or world.now < node.stalled_until:
            return
        seconds = world.plan.lease_seconds * world.rng.uniform(1.1, 1.5)
        node.stalled_until = world.now + seconds
        if world.broker is not None and any(not lease.preparing for lease in world.broker.leases.current()):
            world.seen["writer stalled with leases out"] += 1
        world.judge.writer_stalls(True)
        life = node.life

        def goes_on() -> None:
            if node.life == life:
                world.judge.writer_stalls(False)
                world.wake(node)

        world.later(seconds, goes_on)

    def _drain_a_worker(self) -> None:
        world = self._world
        node = world.rng.choice(world.workers)
        if not isinstance(node.core, Worker) or node.core.draining:
            return
        at_once = world.rng.random() < 0.3
        world.seen["drain: at once" if at_once else "drain"] += 1
        world.node_effects(node, node.core.drain(world.now, at_once=at_once))
        deadline = world.now + DRAIN_PATIENCE
        life = node.life

        def look() -> None:
            if not isinstance(node.core, Worker) or node.life != life:
                return
            if node.core.drained or world.now >= deadline:
                world.seen["left drained" if node.core.drained else "left in a hurry"] += 1
                world.node_effects(node, node.core.leave())
                # What was sent still arrives; the process is gone.
                world.later(0.9, lambda: world.crash(node, left=True) if node.life == life else None)
                return
            world.later(0.5, look)

        look()

    def _drain_all(self) -> None:
        """An admin has the workers drain, and says some time later that they should work again, until they do."""
        world = self._world
        if world.broker is None or self._draining:
            return
        told = drain(world.broker, {}, world.now)
        world.seen["drained by an admin"] += not told.problem
        world.broker_effects(list(told.effects))
        self._draining = True

        def go_on() -> None:
            if world.broker is not None:
                told = undrain(world.broker, {}, world.now)
                world.seen["undrained by an admin"] += not told.problem
                world.broker_effects(list(told.effects))
            self._draining = any(isinstance(node.core, Worker) and node.core.draining for node in world.workers)
            if self._draining:
                world.later(2.0, go_on)

        world.later(world.rng.uniform(0.5, 20.0), go_on)

    def _fill_disk(self) -> None:
        self._world.full_until = self._world.now + self._world.rng.uniform(0.5, 20.0)

    def _new_slot(self) -> None:
        """The maintainer adds a slot and starts the broker again."""
        world = self._world
        world.seen["slot added"] += 1
        world.reloads.slots = (*world.reloads.slots, "z")
        if world.broker is not None:
            world.crash_broker()

    # ------------------------------------------------------------------ forgeries

    def _forge(self) -> None:
        """The hostile worker says something that is not so, with all the ids that it could wish for."""
        world = self._world
        node = next((node for node in world.workers if node.hostile and node.core is not None), None)
        rows = list(world.ledger.leases.values())
        if node is None or not rows or not isinstance(node.core, Worker):
            return
        own = [row for row in rows if row.instance == node.core.rules.instance and row.current]
        kind = world.rng.choice(["slots", "rows", "utf8", "outside", "foreign", "unknown", "origin", "crc", "change"])
        row = world.rng.choice(own or rows)
        if kind == "foreign":
            others = [row for row in rows if row.contributor != node.contributor]
            if not others:
                return
            row = world.rng.choice(others)
        if kind == "change":
            self._forge_change(node, world.rng.choice(rows))
            return
        world.seen[f"forged: {kind}"] += 1
        ranges = ((max(row.end - 2, row.start), row.end),)
        slots = world.disk.passes[row.pass_number - 1] if row.pass_number <= len(world.disk.passes) else ("a",)
        indices = [index for start, end in ranges for index in range(start, end)]
        if kind == "outside":
            ranges, indices = ((row.end, row.end + 1),), [row.end]
        payload = _captions(
            row.shard, indices[:-1] if kind == "rows" else indices, ("q",) if kind == "slots" else slots
        )
        if kind == "utf8":
            payload = payload.replace(b" of ", b" \xff\xff ")
        message = m.Result(
            lease=world.new_id() if kind == "unknown" else row.lease,
            instance=row.instance if kind != "foreign" else world.rng.choice([row.instance, node.core.rules.instance]),
            number=(1 << 40) + world.rng.getrandbits(30),
            ranges=ranges,
            size=len(payload),
            crc=checksum(payload) ^ (kind == "crc"),
            origin=_origin(row.pass_number, row.shard) if kind == "origin" else None,
        )
        world.judge.sent(message, forged=True)
        world.net.to_broker(node, message, payload)

    def _forge_change(self, node: Node, row: LeaseRow) -> None:
        world = self._world
        world.seen["forged: change"] += 1
        if world.rng.random() < 0.5:
            world.net.to_broker(node, m.Release(lease=row.lease), b"")
            return
        item = m.FailedItem(index=row.start, reason="broken", fault="item")
        number = (1 << 40) + world.rng.getrandbits(30)
        failed = m.Failed(lease=row.lease, instance=row.instance, number=number, items=(item,))
        world.net.to_broker(node, failed, b"")


def _origin(pass_number: int, shard: int) -> m.Origin:
    return m.Origin(contributor="c0", key="k", job="j", pass_number=pass_number, shard=shard, received=0)


def _captions(shard: int, indices: list[int], slots: tuple[str, ...]) -> bytes:
    rows, texts = len(indices), [caption_of(slot, shard, index, "x") for index in indices for slot in slots]
    table = build(
        "captions",
        rows,
        {
            "image_width": [1] * rows,
            "image_height": [1] * rows,
            "image_format": ["PNG"] * rows,
            "file_size": [1] * rows,
            "image_sha256": [bytes(32)] * rows,
            "processing_ms": [0.0] * rows,
            "url": [""] * rows,
            "metadata": [""] * rows,
            "caption": texts,
            "finish_reason": ["stop"] * len(texts),
            "prompt_tokens": [0] * len(texts),
            "output_tokens": [0] * len(texts),
            "mean_logprob": [0.0] * len(texts),
            "seed": [0] * len(texts),
            "flags": [0] * len(texts),
        },
        constants=dict.fromkeys(("spec", "model", "model_revision", "engine", "worker", "generation"), "x"),
        slots={"slot": slots, "stage": slots, "prompt_id": slots},
    )
    return encode_table(table)


def has_staged(node: Node) -> bool:
    """A writer that would lose staged results if it crashed now."""
    return isinstance(node.core, Writer) and node.core.has_staged
