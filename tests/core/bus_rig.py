"""A broker with a writer that knows a store, for tests of single decisions. Its clock is moved by hand."""

from __future__ import annotations

import itertools
from typing import TypeVar

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.wire import checksum, encode_table
from cfbus.core import effects as e
from cfbus.core.broker import Broker
from cfbus.core.state import Remembered, Rules
from cfbus.core.tasks import Answer
from cfbus.core.writer import Writer, WriterRules

STORE = "5" * 16
HEARTBEAT = 2.0
LEASE = 10.0
AnyMessage = TypeVar("AnyMessage", bound=m.Message)


def instance_of(name: str) -> str:
    return f"{sum(map(ord, name)):016x}"


class Rig:
    """The real cores of broker and writer, joined without a network; workers are played by the test."""

    def __init__(self, length: int = 20, remembered: Remembered | None = None, **rules: object) -> None:
        slots = (m.Slot(name="a", prompt="write", prompt_id="p"),)
        spec = m.Spec(hash="e" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=slots)
        counter = itertools.count(1)
        facts = {"chunk_size": 8, "lease_seconds": LEASE, "heartbeat_seconds": HEARTBEAT, **rules}
        self.rules = Rules("d", spec, "b" * 16, **facts)  # type: ignore[arg-type]
        self.now = 100.0
        self.broker = Broker(self.rules, lambda: f"{next(counter):016x}", remembered or Remembered(), self.now)
        self.length = length
        self.effects: list[e.Effect] = []
        self.sent: dict[str, list[tuple[m.Message, bytes]]] = {}
        self.task_problem = ""
        self.start_writer("1" * 16)

    def start_writer(self, instance: str) -> None:
        """A writer whose store has one shard and one pass."""
        self.writer = Writer(WriterRules(STORE, "d", instance, "writer"), 0, self.now)
        self.writer.inventory.know_shard("s0", self.length)
        self.writer.inventory.know_pass(m.PassFacts(number=1, slots=("a",)))
        self.writer_link = f"writer-{instance}"

    # ------------------------------------------------------------------ speaking

    def peer(self, name: str) -> e.Peer:
        """Who speaks: the worker ``ann/2`` is the second connection of contributor ann."""
        if name.startswith("writer"):
            return e.Peer(name, "key-w", "writer", m.Role.WRITER)
        roles = {"admin": m.Role.ADMIN, "feeder": m.Role.FEEDER}
        role = next((role for begin, role in roles.items() if name.startswith(begin)), m.Role.WORKER)
        own = name.partition("/")[0]
        return e.Peer(name, f"key-{name}", own, role, own.ljust(40, "k"))

    def say(self, name: str, message: m.Message, payload: bytes = b"") -> list[e.Effect]:
        """A peer says this; what the broker does is done."""
        effects = self.broker.handle(self.peer(name), message, payload, self.now, 0)
        self.carry_out(effects)
        self.broker.check()
        return effects

    def carry_out(self, effects: list[e.Effect]) -> None:
        """Keep what is sent to workers; the writer hears at once."""
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, e.Send):
                self.sent.setdefault(str(effect.to), []).append((effect.message, effect.payload))
                if effect.to == self.writer_link:
                    self.write(self.writer.handle(effect.message, effect.payload, self.now))

    def write(self, effects: list[e.Effect]) -> None:
        """What the writer does is done, and the broker hears of it."""
        for effect in effects:
            if isinstance(effect, e.Send):
                self.say(self.writer_link, effect.message, effect.payload)
            elif isinstance(effect, e.ReadListing):
                rows = effect.end - effect.start
                keys = [f"{index}" for index in range(effect.start, effect.end)]
                payload = encode_table(build("listing", rows, {"key": keys, "locator": [b""] * rows}))
                self.say(self.writer_link, m.Listed(shard=effect.shard, start=effect.start, rows=rows), payload)
            elif isinstance(effect, e.StartTask) and effect.kind not in ("amend", "look"):  # these a test ends
                self.write(self.writer.task_ended(effect.task, Answer(self.task_problem, self.writer.position)))

    def connect_writer(self) -> None:
        """The writer says HELLO and tells its state."""
        self.write(self.writer.connected(self.now))

    def commit(self) -> None:
        """What was staged is durable."""
        self.write(self.writer.stored(self.now))

    def tick(self, seconds: float, *, commits: bool = True) -> None:
        """Time passes; the writer goes on to tell so, or not."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.5, end)
            if commits:
                self.write(self.writer.tick(self.now))
            self.carry_out(self.broker.tick(self.now, 0))

    # ------------------------------------------------------------------ workers

    def join(self, name: str, instance: str | None = None, held: tuple[str, ...] = (), *, reads: bool = True) -> None:
        """A worker says HELLO."""
        own = instance or instance_of(name)
        hello = m.Hello(
            role=m.Role.WORKER, instance=own, software="t", name=name, concurrency=4, held=held, reads=reads
        )
        self.say(name, hello)

    def join_feeder(self, name: str, held: tuple[str, ...] = ()) -> None:
        """A feeder says HELLO; it answers nothing by itself."""
        own = instance_of(name)
        at = f"tcp://{name.partition('/')[0]}:7712"
        self.say(name, m.Hello(role=m.Role.FEEDER, instance=own, software="t", name=name, held=held, feeds_at=at))

    def lease(self, name: str, want: int = 8, rate: float = 0.0) -> m.Grant:
        """A worker asks and is granted."""
        self.say(name, m.Lease(want=want, rate=rate))
        return self.heard(name, m.Grant)[-1]

    def heard(self, name: str, kind: type[AnyMessage]) -> list[AnyMessage]:
        """All messages of a kind that a peer was sent."""
        return [message for message, _ in self.sent.get(name, ()) if isinstance(message, kind)]

    def result(self, grant: m.Grant, start: int, end: int, instance: str, number: int = 1) -> tuple[m.Result, bytes]:
        """A right result."""
        rows = end - start
        table = build(
            "captions",
            rows,
            {
                "image_width": [1] * rows, "image_height": [1] * rows, "image_format": ["PNG"] * rows,
                "file_size": [1] * rows, "image_sha256": [bytes(32)] * rows, "processing_ms": [0.0] * rows,
                "url": [""] * rows, "metadata": [""] * rows,
                "caption": ["x"] * rows, "finish_reason": ["stop"] * rows, "prompt_tokens": [0] * rows,
                "output_tokens": [0] * rows, "mean_logprob": [0.0] * rows, "seed": [0] * rows, "flags": [0] * rows,
            },
            dict.fromkeys(("spec", "model", "model_revision", "engine", "worker", "generation"), "x"),
            dict.fromkeys(("slot", "stage", "prompt_id"), ("a",)),
        )  # fmt: skip
        payload = encode_table(table)
        message = m.Result(
            lease=grant.lease,
            instance=instance,
            number=number,
            ranges=((start, end),),
            size=len(payload),
            crc=checksum(payload),
        )
        return message, payload


def ready(length: int = 20, **rules: object) -> Rig:
    """A rig whose broker is caught up."""
    rig = Rig(length, None, **rules)
    rig.connect_writer()
    assert rig.broker.ready
    return rig
