"""The feeder's core: single decisions, and a machine that looks for a byte that should not have left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import PIECE_BYTES
from cfbus.bus.wire import encode_table
from cfbus.core.effects import Send, Stop
from cfbus.core.serving import (
    LINGER_SECONDS,
    MAX_ALLOWED,
    MAX_WANTED,
    READ_AHEAD,
    SILENT_SECONDS,
    Admit,
    Read,
    Serving,
    ServingEffect,
    ServingRules,
)

ANN, BOB = "a" * 40, "b" * 40
MUCH = 1 << 40


def name_of(number: int) -> str:
    return f"{number:016x}"


def allow(number: int, worker: str, start: int, end: int, ttl: float = 100.0, **more: bool) -> tuple[m.Allow, bytes]:
    rows = end - start
    keys = [f"key-{index}" for index in range(start, end)]
    listing = build("listing", rows, {"key": keys, "locator": [key.encode() for key in keys]})
    message = m.Allow(
        lease=name_of(number), worker=worker, shard=0, shard_name="s", start=start, end=end, ttl=ttl, **more
    )
    return message, encode_table(listing)


class Rig:
    """A feeder's core that has been welcomed; reads are finished by hand."""

    def __init__(self, readers: int = 4, memory: int = 1 << 30) -> None:
        self.now = 0.0
        self.core = Serving(ServingRules(name_of(1), "f", "tcp://f:1", readers, memory), self.now)
        self.reads: list[Read] = []
        self.admitted: frozenset[str] = frozenset()
        self.sent: dict[object, list[tuple[m.Message, bytes]]] = {}
        welcome = m.Welcome(
            software="t", store_id=None, dataset="d", heartbeat_seconds=1.0, lease_seconds=1.0, window=0, generation=1,
            spec=None,
        )  # fmt: skip
        self.do(self.core.handle(welcome, b"", self.now))

    def do(self, effects: Iterable[ServingEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message, payload):
                    self.sent.setdefault(to, []).append((message, payload))
                case Read():
                    self.reads.append(effect)
                case Admit(keys):
                    self.admitted = keys
                case _:
                    pass
        self.core.check()

    def allow(self, number: int, worker: str, start: int = 0, end: int = 100, ttl: float = 100.0) -> str:
        """The answer's problem."""
        self.do(self.core.handle(*allow(number, worker, start, end, ttl), self.now))
        message = self.sent["broker"][-1][0]
        assert isinstance(message, m.Allowed)
        return message.problem

    def fetch(self, to: str, worker: str, number: int, items: Sequence[int] = (), credit: int = MUCH) -> None:
        message = m.Fetch(lease=name_of(number), items=tuple(items), credit=credit)
        self.do(self.core.fetch(to, worker, message, self.now))

    def load(self, size: int = 10, count: int = 1 << 30) -> None:
        """Finish reads that are under way, and those that follow from it."""
        while self.reads and count:
            count -= 1
            read = self.reads.pop(0)
            self.do(self.core.loaded(read.to, read.lease, read.index, b"{}", b"x" * size, None))

    def data(self, to: str) -> list[m.Data]:
        return [message for message, _ in self.sent.get(to, ()) if isinstance(message, m.Data)]

    def whole(self, to: str) -> list[int]:
        """The items that have come whole."""
        return [
            message.index
            for message, payload in self.sent.get(to, ())
            if isinstance(message, m.Data) and message.failure is None and message.offset + len(payload) == message.size
        ]

    def refusals(self, to: str) -> list[tuple[int, str]]:
        return [(each.index, each.failure.reason) for each in self.data(to) if each.failure is not None]

    def forbid(self, *numbers: int) -> None:
        self.do(self.core.handle(m.Forbid(leases=tuple(map(name_of, numbers))), b"", self.now))


def test_items_of_a_lease_come_to_its_worker() -> None:
    rig = Rig()
    assert rig.allow(1, ANN, 10, 20) == ""
    assert rig.admitted == {ANN}
    rig.fetch("x", ANN, 1, [10, 19, 12])
    assert next((read.index, read.key, read.locator) for read in rig.reads) == (10, "key-10", b"key-10")
    rig.load()
    assert rig.whole("x") == [10, 19, 12]


def test_one_index_outside_the_lease_is_refused_and_counted() -> None:
    rig = Rig()
    rig.allow(1, ANN, 10, 20)
    rig.fetch("x", ANN, 1, [9, 20, 10])
    assert rig.refusals("x") == [(9, "outside"), (20, "outside")]
    assert rig.core.refused == 2
    assert [read.index for read in rig.reads] == [10]


def test_a_lease_of_another_worker_is_no_lease() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    rig.allow(2, BOB)
    rig.fetch("x", BOB, 1, [0])
    rig.fetch("x", BOB, 7, [0])
    assert rig.refusals("x") == [(0, "no-lease"), (0, "no-lease")]
    assert rig.reads == []


def test_after_forbid_not_a_byte_leaves() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    rig.fetch("x", ANN, 1, range(6), credit=0)
    rig.load(count=2)
    rig.forbid(1)
    rig.load()
    rig.fetch("x", ANN, 2, credit=MUCH)
    assert rig.data("x") == []
    rig.fetch("x", ANN, 1, [0])
    assert rig.refusals("x") == [(0, "no-lease")]


def test_time_to_live_and_renewal() -> None:
    rig = Rig()
    rig.allow(1, ANN, ttl=10.0)
    rig.now = 8.0
    message, _ = allow(1, ANN, 0, 100, 10.0, renewal=True)
    rig.do(rig.core.handle(message, encode_table(build("listing", 0, {"key": [], "locator": []})), rig.now))
    rig.now = 17.0
    rig.do(rig.core.tick(rig.now))
    assert rig.core.leases == 1
    rig.now = 19.0
    rig.do(rig.core.tick(rig.now))
    assert rig.core.leases == 0


def test_a_renewal_of_what_is_not_served_is_refused() -> None:
    rig = Rig()
    message, _ = allow(1, ANN, 0, 100, renewal=True)
    rig.do(rig.core.handle(message, encode_table(build("listing", 0, {"key": [], "locator": []})), rig.now))
    answer = rig.sent["broker"][-1][0]
    assert isinstance(answer, m.Allowed)
    assert answer.problem
    assert rig.admitted == frozenset()


def test_a_key_lingers_between_two_leases_and_not_for_longer() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    rig.forbid(1)
    assert rig.admitted == {ANN}
    rig.now = LINGER_SECONDS + 1
    rig.do(rig.core.tick(rig.now))
    assert rig.admitted == frozenset()


def test_credit_is_absolute_and_never_passed() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    rig.fetch("x", ANN, 1, [0], credit=1000)
    rig.load(size=5000)
    sent = sum(len(payload) for _, payload in rig.sent["x"])
    assert sent == 1000
    rig.fetch("x", ANN, 1, credit=500)
    rig.fetch("x", ANN, 1, credit=6000)
    assert rig.whole("x") == [0]


def test_large_items_come_in_pieces_and_turn_by_turn() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    rig.allow(2, BOB)
    rig.fetch("x", ANN, 1, [0], credit=0)
    rig.fetch("y", BOB, 2, [5], credit=0)
    rig.load(size=4 * PIECE_BYTES)
    order: list[object] = []
    effects = [*rig.core.fetch("x", ANN, m.Fetch(lease=name_of(1), credit=MUCH), 0.0)]
    effects += rig.core.fetch("y", BOB, m.Fetch(lease=name_of(2), credit=MUCH), 0.0)
    order = [effect.to for effect in effects if isinstance(effect, Send)]
    assert all(len(e.payload) <= PIECE_BYTES for e in effects if isinstance(e, Send))
    assert order.count("x") == order.count("y") == 5


def test_one_worker_cannot_keep_all_readers() -> None:
    rig = Rig(readers=100)
    rig.allow(1, ANN)
    rig.fetch("x", ANN, 1, range(100))
    assert len(rig.reads) == READ_AHEAD


def test_a_slow_worker_costs_bounded_memory() -> None:
    rig = Rig(readers=4, memory=10_000)
    rig.allow(1, ANN)
    rig.fetch("x", ANN, 1, range(100), credit=0)
    rig.load(size=4_000)
    assert len(rig.reads) == 0
    assert rig.core._held_bytes <= 10_000 + 4 * 4_002
    rig.now = SILENT_SECONDS + 1
    rig.do(rig.core.tick(rig.now))
    assert rig.core._held_bytes == 0


def test_too_much_at_once_is_refused() -> None:
    rig = Rig(readers=1)
    rig.allow(1, ANN, 0, 2 * MAX_WANTED)
    for start in range(0, MAX_WANTED + 512, 256):
        rig.fetch("x", ANN, 1, range(start, start + 256), credit=0)
    assert {reason for _, reason in rig.refusals("x")} == {"too-many"}


def test_no_more_leases_than_it_can_serve_and_none_while_it_drains() -> None:
    rig = Rig()
    for number in range(MAX_ALLOWED):
        assert rig.allow(number, ANN) == ""
    assert "as many as it can" in rig.allow(MAX_ALLOWED, BOB)
    assert BOB not in rig.admitted
    other = Rig()
    other.do(other.core.drain())
    assert "about to stop" in other.allow(1, ANN)


def test_what_cannot_be_read_is_told() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    rig.fetch("x", ANN, 1, [3])
    failure = m.FailedItem(index=3, reason="vanished", fault="item")
    read = rig.reads.pop()
    rig.do(rig.core.loaded(read.to, read.lease, read.index, b"", b"", failure))
    assert rig.refusals("x") == [(3, "vanished")]


def test_what_is_read_for_somebody_who_left_is_dropped() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    rig.fetch("x", ANN, 1, [3])
    rig.do(rig.core.gone("x"))
    rig.load()
    assert rig.data("x") == []
    rig.fetch("y", ANN, 1, [3])
    rig.load()
    assert rig.whole("y") == [3]


def test_leases_that_were_lost_meanwhile_end() -> None:
    rig = Rig()
    rig.allow(1, ANN)
    (hello,) = rig.core.connected(rig.now)
    assert isinstance(hello, Send)
    assert isinstance(hello.message, m.Hello)
    assert hello.message.held == (name_of(1),)
    welcome = m.Welcome(
        software="t", store_id=None, dataset="d", heartbeat_seconds=1.0, lease_seconds=1.0, window=0, generation=1,
        spec=None, lost=(name_of(1),),
    )  # fmt: skip
    rig.do(rig.core.handle(welcome, b"", rig.now))
    assert rig.core.leases == 0


def test_a_fatal_error_ends_it() -> None:
    (stop,) = Rig().core.handle(m.Error(code="role", sentence="no", fatal=True), b"", 0.0)
    assert isinstance(stop, Stop)
    assert stop.exit_code == 77


class Machine(RuleBasedStateMachine):
    """Two workers, a few leases, everything in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(readers=3, memory=5_000)
        self.live: dict[str, tuple[str, int, int]] = {}
        self.credit = {"x": 0, "y": 0}
        self.seen = 0

    @rule(number=st.integers(1, 4), who=st.sampled_from([ANN, BOB]), start=st.integers(0, 5), length=st.integers(1, 6))
    def allow(self, number: int, who: str, start: int, length: int) -> None:
        if name_of(number) not in self.live and not self.rig.allow(number, who, start, start + length, ttl=50.0):
            self.live[name_of(number)] = (who, start, start + length)

    @rule(number=st.integers(1, 4))
    def forbid(self, number: int) -> None:
        self.rig.forbid(number)
        self.live.pop(name_of(number), None)

    @rule(
        to=st.sampled_from(["x", "y"]),
        number=st.integers(1, 4),
        items=st.lists(st.integers(0, 12), max_size=6),
        more=st.sampled_from([0, 10, 3_000, 1 << 20]),
    )
    def fetch(self, to: str, number: int, items: list[int], more: int) -> None:
        self.credit[to] += more
        self.rig.fetch(to, {"x": ANN, "y": BOB}[to], number, items, self.credit[to])

    @rule(size=st.sampled_from([0, 10, 3_000, PIECE_BYTES + 7]), count=st.integers(1, 3))
    def load(self, size: int, count: int) -> None:
        self.rig.load(size, count)

    @rule(to=st.sampled_from(["x", "y"]))
    def gone(self, to: str) -> None:
        self.rig.do(self.rig.core.gone(to))
        self.credit[to] = 0
        self.rig.sent.pop(to, None)

    @rule(seconds=st.sampled_from([1.0, 30.0]))
    def passes(self, seconds: float) -> None:
        self.rig.now += seconds
        self.rig.do(self.rig.core.tick(self.rig.now))
        self.live = {lease: facts for lease, facts in self.live.items() if lease in self.rig.core._allowed}

    @invariant()
    def nothing_leaves_that_should_not(self) -> None:
        for to in ("x", "y"):
            sent = self.rig.sent.get(to, [])
            assert sum(len(payload) for _, payload in sent) <= self.credit[to]
        for key in self.rig.admitted:
            assert key in {who for who, _, _ in self.live.values()} or key in self.rig.core._leaving

    def teardown(self) -> None:
        """Whatever is wanted still comes once there is credit and time."""
        for to in ("x", "y"):
            self.rig.fetch(to, {"x": ANN, "y": BOB}[to], 9, (), MUCH)
        self.rig.load()
        for line in self.rig.core._lines.values():
            assert not line.wanted
            assert not line.ready
        assert self.rig.core._held_bytes == 0


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
