"""Who gets in: decisions, and the ZAP thread over real TCP."""

from __future__ import annotations

import threading
import time

import pytest
import zmq
from bus_harness import Bench, entry, eventually, outcome, until
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from cfbus.bus import sockets
from cfbus.bus.auth import (
    ZAP_ENDPOINT,
    Authenticator,
    KeyEntry,
    KeyState,
    KeyTable,
    Reason,
    decide,
)
from cfbus.bus.keys import generate, raw_key
from cfbus.bus.messages import Role
from cfbus.bus.sockets import Connection, Socket

DOMAINS = {"bus": {Role.WORKER, Role.WRITER}, "stats": {Role.MONITOR}}
RAW_DOMAINS = {name.encode(): roles for name, roles in DOMAINS.items()}
EXPECTED = {
    KeyState.ACTIVE: (b"200", Reason.ADMITTED),
    KeyState.RETIRING: (b"200", Reason.ADMITTED),
    KeyState.PENDING: (b"300", Reason.PENDING),
    KeyState.SUSPENDED: (b"300", Reason.SUSPENDED),
    KeyState.REVOKED: (b"500", Reason.REVOKED),
    KeyState.EXPIRED: (b"500", Reason.EXPIRED),
}
PUBLIC = generate().public


def request(public: bytes, domain: bytes = b"bus", mechanism: bytes = b"CURVE") -> list[bytes]:
    raw = raw_key(public)
    assert raw is not None
    return [b"1.0", b"7", domain, b"127.0.0.1", b"", mechanism, raw]


# -- the decision ------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("state", list(KeyState))
@pytest.mark.parametrize("domain", ["bus", "stats", "elsewhere", ""])
def test_every_role_in_every_state_at_every_port(role: Role, state: KeyState, domain: str) -> None:
    verdict = decide(request(PUBLIC, domain.encode()), KeyTable([entry(PUBLIC, role, state)]), RAW_DOMAINS)
    if domain not in DOMAINS:
        assert (verdict.status, verdict.reason) == (b"400", Reason.WRONG_DOMAIN)
    elif state in (KeyState.ACTIVE, KeyState.RETIRING) and role not in DOMAINS[domain]:
        assert (verdict.status, verdict.reason) == (b"400", Reason.WRONG_ROLE)
    else:
        assert (verdict.status, verdict.reason) == EXPECTED[state]
    assert verdict.user_id == (PUBLIC if verdict.status == b"200" else b"")


@pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"GSSAPI", b"curve", b""])
def test_only_curve(mechanism: bytes) -> None:
    verdict = decide(request(PUBLIC, mechanism=mechanism), KeyTable([entry(PUBLIC)]), RAW_DOMAINS)
    assert (verdict.status, verdict.reason) == (b"400", Reason.WRONG_MECHANISM)


def test_an_unknown_key_and_an_empty_table() -> None:
    for table in (KeyTable(), KeyTable([entry(generate().public)])):
        assert decide(request(PUBLIC), table, RAW_DOMAINS).reason is Reason.UNKNOWN


FRAME = st.one_of(st.binary(max_size=40), st.sampled_from([b"1.0", b"bus", b"CURVE", b"", bytes(32)]))


@given(st.lists(FRAME, max_size=9))
def test_no_request_gets_anything_but_a_verdict(frames: list[bytes]) -> None:
    verdict = decide(frames, KeyTable([entry(PUBLIC)]), RAW_DOMAINS)
    assert verdict.status == b"400"
    assert verdict.user_id == b""


@given(position=st.integers(0, 6), frame=st.binary(max_size=40))
def test_a_good_request_with_one_frame_changed(position: int, frame: bytes) -> None:
    frames = request(PUBLIC)
    same = frames[position] == frame
    frames[position] = frame
    admitted = decide(frames, KeyTable([entry(PUBLIC)]), RAW_DOMAINS).status == b"200"
    # The request id, the address and the routing id decide nothing.
    assert admitted == (same or position in (1, 3, 4))


def test_the_table_is_a_mapping_that_cannot_change() -> None:
    entries = [entry(generate().public, state=state) for state in KeyState]
    table = KeyTable(entries)
    assert list(table.values()) == entries
    assert {each.state for each in entries if table.admitted(each.public)} == {KeyState.ACTIVE, KeyState.RETIRING}
    assert table.admitted(b"x") is None
    with pytest.raises(TypeError):
        table[PUBLIC] = entries[0]  # type: ignore[index]


# -- the thread, over TCP ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (KeyState.ACTIVE, Connection.HANDSHAKE_OK),
        (KeyState.RETIRING, Connection.HANDSHAKE_OK),
        (KeyState.PENDING, Connection.HUNG_UP),
        (KeyState.SUSPENDED, Connection.HUNG_UP),
        (KeyState.REVOKED, Connection.CLOSED),
        (KeyState.EXPIRED, Connection.CLOSED),
    ],
)
def test_what_a_client_is_told_in_each_state(bench: Bench, state: KeyState, expected: Connection) -> None:
    pair = generate()
    bench.auth.swap(KeyTable([entry(pair.public, state=state)]))
    _, watch = bench.dial(pair)
    assert outcome(watch) is expected
    assert watch.dead == (expected is Connection.CLOSED)
    assert bench.auth.counts()[EXPECTED[state][1]] >= 1


def test_a_swap_decides_the_next_handshake(bench: Bench) -> None:
    pair = generate()
    _, first = bench.dial(pair)
    assert outcome(first) is Connection.REFUSED
    bench.auth.swap(KeyTable([entry(pair.public)]))
    _, second = bench.dial(pair)
    assert outcome(second) is Connection.HANDSHAKE_OK
    bench.auth.swap(KeyTable())
    _, third = bench.dial(pair)
    assert outcome(third) is Connection.REFUSED
    counts = bench.auth.counts()
    assert (counts[Reason.UNKNOWN], counts[Reason.ADMITTED]) == (2, 1)


def test_another_limit_of_handshakes_decides_the_next_one(bench: Bench) -> None:
    pair = generate()
    bench.auth.swap(KeyTable([entry(pair.public)]))
    bench.auth.limit(1)
    _, watch = bench.dial(pair)
    until(watch, Connection.HANDSHAKE_OK)
    _, second = bench.dial(pair)
    assert outcome(second) is Connection.HUNG_UP
    bench.auth.limit(1)
    assert bench.auth.counts()[Reason.TOO_OFTEN] >= 1
    _, third = bench.dial(pair)
    assert outcome(third) is Connection.HUNG_UP, "the same limit again has forgiven what was owed"
    bench.auth.limit(600)
    _, fourth = bench.dial(pair)
    until(fourth, Connection.HANDSHAKE_OK)


def test_plain_and_null_never_reach_a_verdict_that_admits(bench: Bench) -> None:
    for plain in (False, True):
        client: Socket = bench.context.socket(zmq.DEALER)
        if plain:
            client.plain_username, client.plain_password = b"admin", b"admin"
        client.connect(bench.bus_endpoint)
        client.send(b"let me in")
        assert not bench.router.poll(100)
        client.close(0)
    assert bench.auth.counts()[Reason.ADMITTED] == 0


def test_malformed_requests_are_counted_and_end_nothing(bench: Bench) -> None:
    asker: Socket = bench.context.socket(zmq.DEALER)
    asker.connect(ZAP_ENDPOINT)
    malformed = [
        [b""],
        [b"", b""],
        [b"", b"1.0"],
        [b"x", b"1.0", b"1"],
        [b"", b"1.0", b"2", b"bus"],
        [b"", b"2.0", *request(PUBLIC)[1:]],
        [b"", *request(PUBLIC)[:-1], b"short"],
        [b"", *request(PUBLIC), b"more"],
        [b"", *([b"x" * 1000] * 50)],
    ]
    for frames in malformed:
        asker.send_multipart(frames)
    version, _, *rest = request(PUBLIC)
    asker.send_multipart([b"", version, b"the last", *rest])
    answers: list[list[bytes]] = []
    while not answers or answers[-1][2] != b"the last":
        assert asker.poll(60_000)
        answers.append(asker.recv_multipart())
    assert {answer[3] for answer in answers} == {b"400"}
    assert all(answer[4] == answer[5] == answer[6] == b"" for answer in answers)
    assert bench.auth.counts()[Reason.MALFORMED] == len(malformed)
    asker.close(0)
    assert bench.auth.alive
    bench.enter()[0].close(0)


def test_with_the_handler_gone_nobody_gets_in(bench: Bench) -> None:
    client, watch, _ = bench.enter()
    bench.auth.stop()
    assert not bench.auth.alive
    pair = generate()
    bench.auth.swap(KeyTable([entry(pair.public)]))
    newcomer, refused = bench.dial(pair)
    assert outcome(refused) is not Connection.HANDSHAKE_OK
    assert not sockets.send(newcomer, None, [b"x"])
    # Who was in stays in: their key was checked.
    assert sockets.send(client, None, [b"still here"])
    assert bench.receive(1)[0].frames == [b"still here"]
    assert watch.read(time.monotonic()) == []


class BrokenTable(KeyTable):
    def get(self, public: bytes, default: object = None) -> KeyEntry:
        raise RuntimeError("a bug in the handler")


def test_a_handler_that_dies_closes_the_door_behind_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: deaths.append(str(args.exc_value)))
    pair = generate()
    bench.auth.swap(BrokenTable())
    _, watch = bench.dial(pair)
    assert outcome(watch) is not Connection.HANDSHAKE_OK
    bench.auth.swap(KeyTable([entry(pair.public)]))
    _, again = bench.dial(pair)
    assert outcome(again) is not Connection.HANDSHAKE_OK
    eventually(lambda: not bench.auth.alive)
    assert deaths == ["a bug in the handler"]


def test_a_second_handler_in_the_same_context_is_refused(bench: Bench) -> None:
    second = Authenticator()
    with pytest.raises(zmq.ZMQError):
        second.start(bench.context, KeyTable(), DOMAINS)
    assert not second.alive
    second.stop()
    assert bench.auth.alive


def test_the_end_of_the_context_ends_the_thread() -> None:
    context: sockets.Context = zmq.Context()
    auth = Authenticator()
    auth.start(context, KeyTable(), DOMAINS)
    context.term()
    auth.stop()
    auth.stop()
    assert not auth.alive


def test_user_ids_are_what_the_key_table_is_asked_for(bench: Bench) -> None:
    pair = generate()
    table = KeyTable([entry(pair.public)])
    bench.auth.swap(table)
    client, watch = bench.dial(pair)
    until(watch, Connection.HANDSHAKE_OK)
    assert sockets.send(client, None, [b"x"])
    (message,) = bench.receive(1)
    assert table.admitted(message.user_id) == entry(pair.public)
    assert z85.decode(message.user_id) == raw_key(pair.public)
