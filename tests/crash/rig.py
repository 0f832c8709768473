"""Writer and broker without a bus: the product's own code over a folder, called as the daemons call it.

Used by the workloads that are recorded, and to recover from what a power cut left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from crash.sample import DATASET, INSTANCE, PASSES, SHARDS, SPEC, Part, result

from cfbus.bus import messages as m
from cfbus.bus.auth import KeyState
from cfbus.core.broker import Broker
from cfbus.core.effects import LeaseRow, Peer, SaveLease, SavePosition, Send, Stop
from cfbus.core.state import Rules
from cfbus.core.writer import Writer, WriterRules
from cfbus.daemons.taking_up import facts_of, take_up
from cfbus.store.durable import make_dir
from cfbus.store.folder import Store
from cfbus.store.journal import Journal, JournalFile
from cfbus.store.ledger import Ledger
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import NewRedo, RedoFacts, ShardRow, Tombstone
from cfbus.store.registry import Registry
from cfbus.store.seal import Sealed, record, seal_journal

STORE = "out/captions"
BROKER = "out/broker"
Mark = Callable[[dict[str, object]], None]
_WELCOME = m.Welcome(
    software="t", store_id="5" * 16, dataset=DATASET, heartbeat_seconds=1.0, lease_seconds=1.0, window=0, generation=1,
    spec=None,
)  # fmt: skip


def no_mark(_: dict[str, object]) -> None:
    """Nobody listens."""


def marker(path: Path) -> Mark:
    """Writes marks where strace sees them."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def mark(facts: dict[str, object]) -> None:
        os.write(descriptor, json.dumps(facts).encode() + b"\n")

    return mark


class WriterRig:
    """The writer's half. What is acknowledged is marked, after it is durable by the product's own word."""

    def __init__(self, root: Path, mark: Mark = no_mark) -> None:
        self._mark = mark
        self.store = Store.open(root / STORE, DATASET, create=True)
        try:
            self.manifest = Manifest.open(self.store)
            try:
                self.journal = Journal.open(self.store, self.manifest)
            except BaseException:
                self.manifest.close()
                raise
        except BaseException:
            self.store.close()
            raise
        rules = WriterRules(self.store.store_id, DATASET, "1" * 16, "writer")
        self.core = Writer(rules, self.journal.position, 0.0)
        take_up(self.core, self.manifest, self.journal)
        self.core.handle(_WELCOME, b"", 0.0)

    def list_shards(self, count: int) -> None:
        """The listing has so many shards."""
        for number in range(self.manifest.shard_count(), count):
            name, length = SHARDS[number]
            keys = [f"{name}/{index}.jpg" for index in range(length)]
            digest = write_listing(self.store, number, keys, [b""] * length)
            self.manifest.add_shards([ShardRow(number, name, length, digest)])
            self.core.shards_listed([(name, length)])
            self._mark({"shards": number + 1})

    def open_passes(self, count: int) -> None:
        """The manifest has so many passes."""
        whole = [row for row in self.manifest.passes() if row.redo is None]
        for slots in PASSES[len(whole) : count]:
            number = self.manifest.add_pass(slots)
            self.core.pass_opened(m.PassFacts(number=number, slots=slots))
            self._mark({"passes": number})

    def amend(self, count: int) -> None:
        """So many times a tombstone was set that takes nobody's rows, with a redo of three items in two shards."""
        for number in range(len(self.manifest.tombstones()) + 1, count + 1):
            stone = Tombstone(
                number, (("contributor_id", "nobody"),), ("captions",), 1, 0, "test", "mia", f"{number}", 1
            )
            facts = RedoFacts("test", "mia", f"{number}", 1, tombstone=number)
            self.change((PASSES[0], facts, np.array([[0, 1, 3], [1, 0, 1]], np.int64)), stone)

    def change(self, redo: NewRedo | None, stone: Tombstone | None) -> None:
        """A redo is opened and a tombstone set."""
        for row in self.manifest.amend([] if redo is None else [redo], stone):
            self.core.pass_opened(facts_of(row), self.manifest.selected(row.number).tolist())
        if stone is not None:
            self._mark({"amended": stone.number})

    def take(self, *parts: Part) -> list[m.Stored]:
        """Results arrive in one turn of the loop; what the broker is told of them."""
        for part in parts:
            self._mark({"sent": part.number})
            message, payload = result(part)
            self.core.handle(message, payload, 0.0)
        frames = self.core.staged_frames()
        self.journal.append(frames)
        positions = {(frame.pass_number, frame.shard, frame.ranges): frame.position for frame in frames}
        commits = [it.message for it in self.core.stored(0.0) if isinstance(it, Send)]
        told = [entry for message in commits if isinstance(message, m.Commit) for entry in message.results]
        for entry in told:
            assert entry.status != "refused", entry.reason
            position = positions.get((entry.pass_number, entry.shard, entry.ranges), 0)
            self._mark({"acked": entry.number, "position": position if entry.status == "stored" else 0})
        return told

    def seal(self, file: JournalFile) -> Sealed:
        """The first half of a seal, which a child does."""
        return seal_journal(self.store.root, file.path)

    def seal_all(self) -> None:
        """Everything that is durable is in segments."""
        self.journal.roll()
        for file in self.journal.closed():
            record(self.manifest, self.journal, file, self.seal(file))

    def close(self) -> None:
        """As the daemon closes."""
        self.journal.close()
        self.manifest.close()
        self.store.close()


class BrokerRig:
    """The broker's half: registry and ledger."""

    def __init__(self, root: Path, mark: Mark = no_mark) -> None:
        self._mark = mark
        folder = root / BROKER
        make_dir(folder)
        self.registry = Registry.open(folder / "registry.sqlite", create=True)
        self.ledger = Ledger(folder / "ledger.sqlite")

    def enrol(self, name: str) -> None:
        """A key and its contributor."""
        someone = self.registry.add_contributor(name, trust=3, who="t", now=1.0)
        self.registry.add_key(key_of(name), m.Role.WORKER, someone.contributor_id, name, who="t", now=1.0)
        self._mark({"key": name, "state": "active"})

    def revoke(self, name: str) -> None:
        """The key of that name."""
        self.registry.set_state(key_of(name), KeyState.REVOKED, who="t", now=2.0)
        self._mark({"key": name, "state": "revoked"})

    def follow(self, store_id: str, position: int) -> None:
        """The writer has said COMMIT."""
        lease = LeaseRow(
            f"{position:016x}", f"s0:0-2@1.{position}", 1, 0, 0, 2, "c", "k", INSTANCE, backup=False, current=True
        )
        self.ledger.apply([SaveLease(lease), SavePosition(store_id, position)])

    def greet(self, store_id: str, position: int) -> list[Stop]:
        """What the broker's core says against a writer with this store."""
        core = Broker(Rules(DATASET, SPEC, "b" * 16), lambda: "c" * 16, self.ledger.remembered(), 0.0)
        facts = m.StoreFacts(store_id=store_id, dataset=DATASET, position=position)
        hello = m.Hello(role=m.Role.WRITER, instance="1" * 16, software="t", name="writer", store=facts)
        effects = core.handle(Peer(b"1", "k", "w", m.Role.WRITER), hello, b"", 0.0, 0)
        stops = [it for it in effects if isinstance(it, Stop)]
        refusals = [it.message for it in effects if isinstance(it, Send) and isinstance(it.message, m.Error)]
        assert not refusals, refusals
        return stops

    def close(self) -> None:
        """As the daemon closes."""
        self.ledger.close()
        self.registry.close()


def key_of(name: str) -> bytes:
    """A public key, as text."""
    return name.encode().ljust(40, b"0")


def in_turn(phases: Iterable[Callable[[Path, Mark], None]], root: Path, mark: Mark) -> None:
    """Each phase in a process of its own, which ends without closing anything."""
    for phase in phases:
        child = os.fork()
        if child == 0:
            try:
                phase(root, mark)
            except BaseException as error:  # noqa: BLE001 - told by the exit code, whatever it is
                sys.stderr.write(f"{phase.__name__}: {error!r}\n")
                os._exit(70)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, phase.__name__
