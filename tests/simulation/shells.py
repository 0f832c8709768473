"""The shells of the simulated writer and workers: files, tasks and an engine that captions after a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.disk import PADDING, caption_of
from simulation.network import Node
from simulation.plan import FAT_BYTES

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import encode_table
from cfbus.core import effects as e
from cfbus.core.outcome import Caption, EngineFacts, Outcome, WorkItem
from cfbus.core.serving import ServingEffect
from cfbus.core.tasks import Answer
from cfbus.core.worker import Worker, WorkerRules
from cfbus.core.writer import Writer, WriterRules

if TYPE_CHECKING:
    from simulation.world import World

STORE = "5" * 16
CONCURRENCY = 4
BACKLOG_BYTES = 1 << 20
CRASH_AFTER_COMMIT = 0.01


class Shells:
    """Starts processes and carries out what their cores ask for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._flush_due = False

    def start_writer(self) -> None:
        """The writer starts from the disk."""
        world = self._world
        node, disk = world.writer, world.disk
        node.life += 1
        rules = WriterRules(STORE, "d", world.new_id(), "writer", max_backlog=BACKLOG_BYTES)
        core = Writer(rules, len(disk.frames), world.now)
        for name, length in disk.shards:
            core.inventory.know_shard(name, length)
        for number in range(1, len(disk.passes) + 1):
            core.inventory.know_pass(world.redos.facts(number), world.redos.selected(number))
        for number, shard, index in sorted(disk.items):
            core.inventory.know_done((number, shard), [(index, index + 1)])
        core.know_totals(len(disk.items) - len(disk.dead), len(disk.dead))
        node.core = core
        self._flush_due = False
        world.net.link(node)

    def start_worker(self, node: Node) -> None:
        """A worker starts with a new instance and what its spool has."""
        world = self._world
        node.life += 1
        items = world.rng.choice([1, 4, 64])
        rules = WorkerRules(
            world.new_id(), node.name, CONCURRENCY, result_items=items, resend_seconds=5.0, reads=node.reads
        )
        core = Worker(rules, EngineFacts("scripted", "none"), world.now)
        if node.spool:
            world.seen["spool replayed"] += 1
        core.restore(node.spool.values(), world.now)
        node.window = node.widest = m.MAX_FRAME_BYTES + core.unacked_bytes
        node.core = core
        world.net.link(node)

    def carry_out(self, node: Node, effect: ServingEffect) -> None:
        """One effect of a writer, worker or feeder."""
        world = self._world
        if node.role is m.Role.FEEDER:
            world.feeders.carry_out(node, effect)
            return
        match effect:
            case e.Send():
                world.judge.sent(effect.message)
                world.net.to_broker(node, effect.message, effect.payload)
            case e.StartTask():
                life = node.life
                world.later(world.rng.random() * world.rng.choice([0.1, 2.0, 10.0]), lambda: self._task(effect, life))
            case e.ProbeRoom():
                if world.now >= world.full_until and isinstance(node.core, Writer):
                    world.node_effects(node, node.core.has_room(world.now))
            case e.ReadListing():
                self._read_listing(effect)
            case e.Spool():
                node.spool[effect.instance, effect.number] = (effect.message, effect.payload)
            case e.Unspool():
                node.spool.pop((effect.instance, effect.number), None)
                world.seen["rejected"] += bool(effect.refused)
            case e.Note():
                world.note(effect)
            case e.ReadFrom():
                world.feeders.read_from(node, effect)
            case e.Forget():
                world.feeders.forget(node, effect)
            case e.UseSpec(spec, generation):
                node.generation, node.prompts = generation, frozenset(slot.name for slot in spec.slots)
                assert isinstance(node.core, Worker)
                world.node_effects(node, node.core.applied("applied"))
            case e.Abandon():
                pass
            case _:
                raise AssertionError(f"{node.name} gave up: {effect}")

    # ------------------------------------------------------------------ the writer's

    def _read_listing(self, effect: e.ReadListing) -> None:
        world = self._world
        keys = [f"{effect.shard}/{index}" for index in range(effect.start, effect.end)]
        if world.rng.random() < 0.1:
            keys = keys[: max(len(keys) // 2, 1)]  # as if the rest did not fit a frame
        payload = encode_table(build("listing", len(keys), {"key": keys, "locator": [b""] * len(keys)}))
        listed = m.Listed(shard=effect.shard, start=effect.start, rows=len(keys))
        world.net.to_broker(world.writer, listed, payload)

    def _task(self, task: e.StartTask, life: int) -> None:
        world = self._world
        node, disk = world.writer, world.disk
        core = node.core
        if not isinstance(core, Writer) or node.life != life:
            return
        if world.now < node.stalled_until:
            world.later(node.stalled_until - world.now, lambda: self._task(task, life))
            return
        effects: list[e.Effect] = []
        count = 0
        if task.kind == "scan":
            for shard in range(len(disk.shards), len(world.plan.shards)):
                disk.shards.append((f"s{shard}", world.plan.shards[shard]))
                effects += core.shards_listed([disk.shards[-1]])
        elif task.kind == "open-pass":
            disk.open_pass(task.slots)
            effects += core.pass_opened(m.PassFacts(number=len(disk.passes), slots=task.slots))
        elif task.kind == "amend":
            world.node_effects(node, world.redos.carry_out(core, task))
            return
        elif task.kind == "seal":
            count = core.position
        effects += core.task_ended(task.task, Answer(count=count))
        world.node_effects(node, effects)

    def flush_soon(self) -> None:
        """A transaction begins soon, if there is anything for it."""
        world, core = self._world, self._world.writer.core
        if self._flush_due or not isinstance(core, Writer) or not core.has_staged:
            return
        self._flush_due = True
        life = world.writer.life
        wait = 0.005 + world.rng.random() * world.plan.slow_writer * world.storm
        world.later(wait, lambda: self._flush(life))

    def _flush(self, life: int) -> None:
        world, node = self._world, self._world.writer
        core = node.core
        if not isinstance(core, Writer) or node.life != life:
            return
        if world.now < node.stalled_until:
            world.later(node.stalled_until - world.now, lambda: self._flush(life))
            return
        self._flush_due = False
        if world.now < world.full_until and core.staged_frames():
            world.seen["disk full"] += 1
            world.node_effects(node, core.not_stored(world.now))
            return
        for frame in core.staged_frames():
            world.judge.frame(frame)
            world.disk.write(frame)
        if world.storm and world.plan.crashes and world.rng.random() < CRASH_AFTER_COMMIT:
            world.seen["crash: writer between commit and COMMIT"] += 1
            world.crash(node)
            return
        world.node_effects(node, core.stored(world.now))

    # ------------------------------------------------------------------ the workers'

    def feed(self, node: Node) -> None:
        """Give the engine what there is."""
        world, core = self._world, node.core
        if not isinstance(core, Worker) or (node.zombie and (world.storm or world.plan.zombie_for_ever)):
            return
        world.judge.window(node, core)
        for item in core.next_items(CONCURRENCY - core.in_flight):
            world.seen["captioned"] += 1
            assert node.prompts.issuperset(item.slots), "an item is begun without a prompt for each slot"
            wait = world.rng.expovariate(1.0) * node.speed
            begun = (item, node.generation, node.life)
            world.later(wait, lambda begun=begun: self._captioned(node, *begun))  # type: ignore[misc]

    def _captioned(self, node: Node, item: WorkItem, by: int, life: int) -> None:
        core = node.core
        if isinstance(core, Worker) and node.life == life:
            self._world.feeders.read(node, item, lambda: self._finish(node, item, by, life))

    def _finish(self, node: Node, item: WorkItem, by: int, life: int) -> None:
        world, core = self._world, node.core
        if not isinstance(core, Worker) or node.life != life:
            return
        shard = int(item.shard[1:])
        assert item.key == f"{shard}/{item.index}", "an item has another item's key"
        bad = (shard, item.index) in world.plan.bad or (node.liar and world.rng.random() < 0.3)
        flaky = world.storm and world.rng.random() < world.plan.flaky
        if bad or flaky:
            failure = m.FailedItem(index=item.index, reason="broken", fault="item" if bad else "network")
            outcome = Outcome(item.lease, item.index, failure=failure)
        else:
            padding = PADDING * FAT_BYTES if world.plan.fat else ""
            captions = tuple(Caption(caption_of(slot, shard, item.index, by) + padding) for slot in item.slots)
            outcome = Outcome(item.lease, item.index, captions)
        world.node_effects(node, core.outcomes([outcome], world.now))
        self.feed(node)
        world.wake(node)
