"""Single decisions of the writer; how they hold together is the simulation's."""

from __future__ import annotations

import itertools

import pytest
from core.bus_rig import STORE, Rig, instance_of, ready

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import MAX_HEADER_BYTES
from cfbus.bus.wire import checksum, decode_table, encode, encode_table
from cfbus.core import effects as e
from cfbus.core.tasks import Answer
from cfbus.core.writer import HELLO_SECONDS, MOST_RETRY_SECONDS, Writer, WriterRules

ANN = instance_of("ann")
WIDE = "\N{GRINNING FACE}"
ORIGIN = m.Origin(contributor="ann", key="k", job="s0:0-20@1.1", pass_number=1, shard=0, received=7)


def writer(passes: int = 1, shards: int = 1, length: int = 20, name: str = "s") -> Writer:
    own = Writer(WriterRules(STORE, "d", "1" * 16, "writer"), 0, 0.0)
    for shard in range(shards):
        own.inventory.know_shard(f"{name}{shard}", length)
    for number in range(1, passes + 1):
        own.inventory.know_pass(m.PassFacts(number=number, slots=("a",) if number == 1 else (f"x{number}",)))
    own.handle(WELCOME, b"", 0.0)
    return own


WELCOME = m.Welcome(
    software="t", store_id=STORE, dataset="d", heartbeat_seconds=1.0, lease_seconds=1.0, window=0, generation=1,
    spec=None,
)  # fmt: skip


def result(start: int, end: int, number: int = 1, *, change: dict[str, object] | None = None) -> tuple[m.Result, bytes]:
    grant = m.Grant(
        lease="9" * 16, pass_number=1, shard=0, shard_name="s0", start=0, end=20, slots=("a",), backup=False, ttl=1.0,
        window=0,
    )  # fmt: skip
    message, payload = Rig.result(ready(), grant, start, end, ANN, number)
    return message.model_copy(update={"origin": ORIGIN, **(change or {})}), payload


def sent(effects: list[e.Effect]) -> list[m.Message]:
    return [effect.message for effect in effects if isinstance(effect, e.Send)]


def stored(own: Writer) -> list[m.Stored]:
    commits = [message for message in sent(own.stored(1.0)) if isinstance(message, m.Commit)]
    return [entry for commit in commits for entry in commit.results]


def test_a_commit_names_a_result_only_once_it_is_stored() -> None:
    own = writer()
    message, payload = result(0, 4)
    assert own.handle(message, payload, 0.0) == []
    assert [frame.position for frame in own.staged_frames()] == [1]
    assert [(entry.status, entry.new_items) for entry in stored(own)] == [("stored", 4)]
    assert own.inventory.done() == {(1, 0): ((0, 4),)}
    own.handle(message, payload, 0.0)
    assert own.staged_frames() == []
    assert [entry.status for entry in stored(own)] == ["duplicate"]


def test_a_partly_new_frame_has_a_mask_of_what_counts() -> None:
    own = writer()
    for start, end in ((2, 4), (0, 10)):
        own.handle(*result(start, end), 0.0)
    first, second = own.staged_frames()
    assert first.mask is None
    assert second.mask == bytes([0b11110011, 0b11])
    own.handle(*result(1, 9, 3), 0.0)
    assert len(own.staged_frames()) == 2, "all of it is staged already"
    assert [entry.status for entry in stored(own)] == ["stored", "stored", "duplicate"]
    assert (own.captions, own.position) == (10, 2)


def test_what_was_not_stored_has_never_come() -> None:
    own = writer()
    own.handle(*result(0, 4), 0.0)
    commit = sent(own.not_stored(1.0))[0]
    assert isinstance(commit, m.Commit)
    assert (commit.state, commit.position, commit.results) == ("disk-full", 0, ())
    assert not own.has_staged
    assert any(isinstance(effect, e.ProbeRoom) for effect in own.tick(3.0))
    own.handle(*result(0, 4), 3.0)
    assert [frame.position for frame in own.staged_frames()] == [1]
    assert [entry.status for entry in stored(own)] == ["stored"]
    assert own.state == "open"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"origin": None}, "did not say whose"),
        ({"origin": ORIGIN.model_copy(update={"pass_number": 9})}, "no pass 9"),
        ({"origin": ORIGIN.model_copy(update={"shard": 9})}, "does not have"),
        ({"ranges": ((19, 21),)}, "does not have"),
        ({"ranges": ((0, 3),)}, "2 items in the payload, 3 in the header"),
        ({"crc": 1}, "checksum"),
        ({"table": "failures"}, "failures: "),
        ({"origin": ORIGIN.model_copy(update={"pass_number": 2})}, "slots of the pass"),
    ],
)
def test_what_is_wrong_is_refused_before_it_is_stored(change: dict[str, object], reason: str) -> None:
    own = writer(passes=2)
    own.handle(*result(0, 2, change=change), 0.0)
    assert own.staged_frames() == []
    (entry,) = stored(own)
    assert entry.status == "refused"
    assert reason in entry.reason
    assert own.inventory.done() == {}


def test_commits_follow_on_each_other_and_fit_their_headers() -> None:
    """However many results with however torn ranges came at once, and however long the reasons are."""
    own = writer(length=40_000)
    for number in range(40):
        ranges = tuple((at, at + 1) for at in range(number % 2, 2 * 4096, 2))
        own.handle(*result(0, 2, number, change={"ranges": ranges}), 0.0)
    rows = 4000
    message, payload = result(0, rows, 100)
    own.handle(message.model_copy(update={"ranges": tuple((2 * at, 2 * at + 1) for at in range(rows))}), payload, 0.0)
    for number in range(1000, 3000):
        own.handle(*_once(number), 0.0)
    commits = [message for message in sent(own.stored(1.0)) if isinstance(message, m.Commit)]
    assert sum(len(commit.results) for commit in commits) == 2041
    for one, other in itertools.pairwise(commits):
        assert other.after == one.position
    for commit in commits:
        assert m.Commit.model_validate(commit.model_dump()) == commit
        assert len(encode(commit)[1]) <= MAX_HEADER_BYTES
        acks = tuple(
            m.Acked(instance=it.instance, number=it.number, status=it.status, reason=it.reason) for it in commit.results
        )
        assert len(encode(m.Ack(results=acks, window=(1 << 53) - 1))[1]) <= MAX_HEADER_BYTES


_ONE = result(5, 6)


def _once(number: int) -> tuple[m.Result, bytes]:
    return _ONE[0].model_copy(update={"number": number}), _ONE[1]


@pytest.mark.parametrize(
    ("passes", "shards", "name"), [(1, 0, "s"), (1, 3, "s"), (700, 2000, WIDE * 500), (3, 90_000, "s")]
)
def test_the_state_is_told_whole_in_pages_that_fit(passes: int, shards: int, name: str) -> None:
    own = writer(passes, shards, 6, name)
    for shard in range(shards):
        own.inventory.know_done((1, shard), [(1, 2), (4, 5)])
    told = [effect for effect in own.handle(m.Since(shards=0), b"", 0.0) if isinstance(effect, e.Send)]
    seen_passes, seen_shards, seen_done = 0, 0, 0
    for at, effect in enumerate(told):
        state = effect.message
        assert isinstance(state, m.State)
        frames = encode(state, effect.payload)
        assert len(frames[1]) <= MAX_HEADER_BYTES
        assert sum(map(len, frames)) <= m.MAX_FRAME_BYTES
        assert (state.page, state.last, state.snapshot) == (at, at == len(told) - 1, True)
        table = decode_table(state.table, effect.payload)
        seen_passes += len(state.passes)
        seen_shards += table.rows * (state.table == "shards")
        seen_done += table.rows * (state.table == "done")
    assert (seen_passes, seen_shards, seen_done) == (passes, shards, 2 * shards)


def ask(own: Writer, task: str, kind: str, slots: tuple[str, ...] = ()) -> list[e.Effect]:
    return own.handle(m.Task.model_validate({"task": task * 16, "kind": kind, "slots": slots}), b"", 0.0)


def test_a_task_asked_twice_runs_once_and_its_end_is_told_again() -> None:
    own = writer()
    assert len(ask(own, "1", "seal")) == 1
    assert ask(own, "1", "seal") == []
    done = own.task_ended("1" * 16, Answer(count=7))
    assert ask(own, "1", "seal") == done
    assert len(ask(own, "2", "seal")) == 1


def test_a_scan_that_runs_answers_whoever_asks() -> None:
    own = writer()
    ask(own, "1", "scan")
    assert ask(own, "2", "scan") == []
    ended = [message.task for message in sent(own.task_ended("1" * 16, Answer(count=0))) if isinstance(message, m.Done)]
    assert ended == ["1" * 16, "2" * 16]


def test_no_slot_is_opened_twice_whoever_asks_and_when() -> None:
    own = writer(passes=0)
    (start,) = ask(own, "1", "open-pass", ("a",))
    assert ask(own, "2", "open-pass", ("a",)) == []
    assert ask(own, "3", "open-pass", ("a", "z")) == []
    own.pass_opened(m.PassFacts(number=1, slots=("a",)))
    effects = own.task_ended("1" * 16, Answer(count=0))
    assert isinstance(start, e.StartTask)
    assert [it.slots for it in effects if isinstance(it, e.StartTask)] == [("z",)]
    assert [it.task for it in sent(effects) if isinstance(it, m.Done)] == ["1" * 16, "2" * 16]
    own.pass_opened(m.PassFacts(number=2, slots=("z",)))
    assert [it.task for it in sent(own.task_ended("3" * 16, Answer(count=0))) if isinstance(it, m.Done)] == ["3" * 16]
    again = ask(own, "4", "open-pass", ("z",))
    assert [type(message) for message in sent(again)] == [m.State, m.Done]


def test_hello_first_is_answered_with_one_hello() -> None:
    own = writer()
    error = m.Error(code="hello-first", sentence="s")
    said = [sent(own.handle(error, b"", 0.0)) for _ in range(5)]
    assert [len(messages) for messages in said] == [1, 0, 0, 0, 0]


def test_a_failure_is_a_dead_letter() -> None:
    own = writer()
    payload = encode_table(
        build("failures", 1, {"reason": ["r"], "fault": ["item"], "attempts": [2], "detail": ["d"], "who": ["ann"]})
    )
    message, _ = result(3, 4)
    change: dict[str, object] = {"table": "failures", "size": len(payload), "crc": checksum(payload)}
    own.handle(message.model_copy(update=change), payload, 0.0)
    assert [entry.status for entry in stored(own)] == ["stored"]
    assert (own.captions, own.dead_letters) == (0, 1)


def test_one_hello_for_one_connection() -> None:
    own = Writer(WriterRules(STORE, "d", "1" * 16, "writer"), 0, 0.0)
    assert sent(own.tick(0.0)) == [], "libzmq may be connected before we are told"
    assert len(sent(own.connected(0.1))) == 1
    assert sent(own.tick(0.2)) == []
    assert len(sent(own.tick(0.1 + HELLO_SECONDS))) == 1


@pytest.mark.parametrize(("told", "pause"), [(0.0, HELLO_SECONDS), (60.0, 60.0), (1e6, MOST_RETRY_SECONDS)])
def test_who_is_told_to_come_again_later_does(told: float, pause: float) -> None:
    own = Writer(WriterRules(STORE, "d", "1" * 16, "writer"), 0, 0.0)
    own.connected(0.0)
    own.handle(m.Error(code="full", sentence="s", retry_after=told), b"", 0.0)
    assert own.next_deadline() == pause
    assert sent(own.tick(pause - 0.1)) == []
    assert len(sent(own.tick(pause))) == 1
