"""The way to a broker, step by step: each thing that may stand there has its own sentence, hint and exit code."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import zmq
from bus_harness import Bench, quick_bench

from cfbus import link
from cfbus.bus import messages as m
from cfbus.bus.auth import KeyState
from cfbus.bus.keys import KeyPair, fingerprint, generate, public_line
from cfbus.bus.messages import Role
from cfbus.errors import CfbusError, ConfigError
from cfbus.tools import asking, doctor_bus
from cfbus.tools.doctor_bus import Bus, Way, way_of
from cfbus.tools.doctor_seen import Seen, Verdict


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 6.0)
    monkeypatch.setattr(doctor_bus, "TCP_SECONDS", 0.5)
    monkeypatch.setattr(doctor_bus, "GREETING_SECONDS", 0.5)
    monkeypatch.setattr(link, "WRONG_SERVER_SECONDS", 0.5)
    monkeypatch.setattr(link, "REBUILD_SECONDS", (0.1,))
    monkeypatch.setattr(link, "WATCH_SECONDS", 0.2)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from quick_bench(monkeypatch)


def way(endpoint: str, server: bytes, pair: KeyPair) -> Way:
    """A writer's: it says nothing, so that a door alone can answer."""
    return Way(endpoint, server, pair, Role.WRITER, "birds", "writer")


def looked(at: Way) -> list[Seen]:
    seen = list(Bus(at).look())
    bad = [each for each in seen if each.verdict is Verdict.BAD]
    assert bad == seen[-len(bad) :] if bad else True, "nothing is looked at beyond what bars the way"
    assert all(each.exit_code for each in bad)
    assert len(bad) <= 1
    return seen


def last(at: Way) -> Seen:
    return looked(at)[-1]


def test_a_key_that_is_let_in(bench: Bench) -> None:
    seen = looked(way(bench.bus_endpoint, bench.pair.public, bench.enrol(Role.WRITER)))
    assert [each.what for each in seen] == ["name", "network", "broker", "broker's key", "this key"]
    assert {each.verdict for each in seen} == {Verdict.OK}
    assert fingerprint(bench.pair.public) in seen[3].sentence


def test_the_wrong_server_key(bench: Bench) -> None:
    wanted = generate().public
    seen = last(way(bench.bus_endpoint, wanted, bench.enrol(Role.WRITER)))
    assert (seen.what, seen.exit_code) == ("broker's key", 77)
    assert f"has another key than writer.server_key, {fingerprint(wanted)}" in seen.sentence
    assert "do not go on" in seen.hint


def test_a_key_that_is_not_known(bench: Bench) -> None:
    pair = generate()
    seen = last(way(bench.bus_endpoint, bench.pair.public, pair))
    assert (seen.what, seen.exit_code) == ("this key", 77)
    assert seen.sentence == f"The broker at {bench.bus_endpoint} does not know this key, or not for this port."
    assert fingerprint(pair.public) in seen.hint
    assert "invite" in seen.hint


def test_a_key_for_another_port(bench: Bench) -> None:
    seen = last(way(bench.bus_endpoint, bench.pair.public, bench.enrol(Role.MONITOR)))
    assert (seen.what, seen.exit_code) == ("this key", 77)
    assert "does not know this key, or not for this port" in seen.sentence


@pytest.mark.parametrize("state", [KeyState.REVOKED, KeyState.EXPIRED])
def test_a_key_that_is_closed_for_good(bench: Bench, state: KeyState) -> None:
    pair = bench.enrol(Role.WRITER, state)
    seen = last(way(bench.bus_endpoint, bench.pair.public, pair))
    assert (seen.what, seen.exit_code) == ("this key", 77)
    assert "knows this key and does not admit it any more: it was revoked or has expired." in seen.sentence
    assert f"cfbus-admin keys show {fingerprint(pair.public)}" in seen.hint


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.SUSPENDED])
def test_a_key_that_waits(bench: Bench, state: KeyState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 3600.0)  # that it waits is told, not awaited
    seen = last(way(bench.bus_endpoint, bench.pair.public, bench.enrol(Role.WRITER, state)))
    assert (seen.what, seen.exit_code) == ("this key", 77)
    assert "waits for approval, or is suspended" in seen.sentence


def test_a_name_that_nobody_has() -> None:
    seen = last(way("tcp://no-such-host.invalid:7710", generate().public, generate()))
    assert (seen.what, seen.exit_code) == ("name", 69)
    assert "no-such-host.invalid cannot be looked up" in seen.sentence


def test_a_name_that_is_none() -> None:
    seen = last(way(f"tcp://{'x' * 70}.invalid:7710", generate().public, generate()))
    assert (seen.what, seen.exit_code) == ("name", 69)


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        seen = last(way(f"tcp://127.0.0.1:{port}", generate().public, generate()))
    assert (seen.what, seen.exit_code) == ("network", 69)
    assert f"127.0.0.1:{port} refuses" in seen.sentence


def test_a_silent_firewall() -> None:
    # A queue that is full: what comes beyond it is dropped without a word.
    with ExitStack() as stack:
        door = stack.enter_context(socket.socket())
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        for _ in range(8):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(door.getsockname())
        port = door.getsockname()[1]
        seen = last(way(f"tcp://127.0.0.1:{port}", generate().public, generate()))
    assert (seen.what, seen.exit_code) == ("network", 69)
    assert "does not answer at all" in seen.sentence
    assert f"TCP port {port}" in seen.hint


def test_one_of_two_addresses_is_enough(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(bench.bus_endpoint.rpartition(":")[2])
    monkeypatch.setattr(doctor_bus, "_resolved", lambda host, port: [("127.0.0.9", port), ("127.0.0.1", port)])
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 0.1)
    seen = looked(way(f"tcp://bus.example.org:{port}", bench.pair.public, generate()))
    # The name means another host to libzmq, so only the steps before the handshake count.
    assert [(each.what, each.verdict) for each in seen[:4]] == [
        ("name", Verdict.OK), ("network", Verdict.NOTE), ("network", Verdict.OK), ("broker", Verdict.OK),
    ]  # fmt: skip
    assert "127.0.0.9" in seen[1].sentence


def test_none_of_two_addresses_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_bus, "_resolved", lambda host, port: [("127.0.0.9", 9), ("127.0.0.1", 9)])
    seen = looked(way("tcp://bus.example.org:9", generate().public, generate()))
    assert [each.verdict for each in seen] == [Verdict.OK, Verdict.NOTE, Verdict.NOTE, Verdict.BAD]
    assert "None of the addresses of bus.example.org" in seen[-1].sentence


@contextmanager
def something(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that is no broker."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(8)
        ending = threading.Event()

        def take() -> None:
            while not ending.is_set():
                client, _ = door.accept()
                with client:
                    client.settimeout(60.0)
                    serve(client)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{door.getsockname()[1]}"
        finally:
            ending.set()
            socket.create_connection(door.getsockname(), 60.0).close()
            thread.join()


def says(text: bytes) -> Callable[[socket.socket], None]:
    """A server that says this, and then listens until the other end hangs up."""

    def serve(client: socket.socket) -> None:
        try:
            client.sendall(text)
            while client.recv(4096):
                pass
        except OSError:
            return

    return serve


@pytest.mark.parametrize(
    ("said", "words", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no cfbus broker: it begins with 'SSH-2.0-OpenSSH_9.6", 68),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n<html>", "it begins with 'HTTP/1.1 400 Bad Request", 68),
        (b"\x1b]0;x\x07\x1b[2J\n", "no cfbus broker", 68),
        (b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48), "not as a cfbus broker does (ZMTP 3, NULL)", 68),
        (b"\xff" + bytes(8) + b"\x7f\x01\x00", "not as a cfbus broker does (ZMTP 1, none)", 68),
        (b"\xff", "no cfbus broker", 68),
        (b"", "takes connections and says nothing", 69),
    ],
)
def test_what_is_no_broker(said: bytes, words: str, code: int) -> None:
    with something(says(said)) as endpoint:
        seen = last(way(endpoint, generate().public, generate()))
    assert (seen.what, seen.exit_code) == ("broker", code), seen
    assert words in seen.sentence
    assert "\x1b" not in seen.sentence


def test_what_hangs_up_at_once() -> None:
    with something(lambda client: client.shutdown(socket.SHUT_RDWR)) as endpoint:
        seen = last(way(endpoint, generate().public, generate()))
    assert (seen.what, seen.exit_code) == ("broker", 69)
    assert "closes them at once" in seen.sentence or "broke" in seen.sentence


def test_zeromq_without_curve_is_no_broker() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    try:
        seen = last(way(f"tcp://127.0.0.1:{port}", generate().public, generate()))
    finally:
        router.close(0)
        context.term()
    assert "speaks ZeroMQ, but not as a cfbus broker does (ZMTP 3, NULL)" in seen.sentence


def welcome(**changed: object) -> m.Welcome:
    said: dict[str, object] = {
        "software": "t", "store_id": None, "dataset": "birds", "heartbeat_seconds": 1.0, "lease_seconds": 1.0,
        "window": 0, "generation": 0, "spec": None, "now": int(time.time() * 1e6),
    }  # fmt: skip
    return m.Welcome.model_validate({**said, **changed})


@pytest.mark.parametrize(
    ("changed", "what", "verdict", "words"),
    [
        ({}, "key's end", Verdict.OK, "for ever"),
        ({"key_expires": int((time.time() + 30 * 86_400) * 1e6)}, "key's end", Verdict.OK, "in 30 days"),
        ({"key_expires": int((time.time() + 3 * 86_400) * 1e6)}, "key's end", Verdict.NOTE, "in 3 days"),
        ({}, "clock", Verdict.OK, "agrees"),
        ({"now": 600}, "clock", Verdict.NOTE, "10 minutes behind"),
        ({"dataset": "cats\x1b[2J"}, "project", Verdict.BAD, "dataset.name is birds"),
    ],
)
def test_what_the_broker_tells_a_worker(changed: dict[str, object], what: str, verdict: Verdict, words: str) -> None:
    at = way("tcp://h:1", generate().public, generate())
    if "now" in changed:
        changed = {"now": int((time.time() + 600) * 1e6)}
    found = {each.what: each for each in doctor_bus._welcomed(at, welcome(**changed))}
    assert found[what].verdict is verdict
    assert words in found[what].sentence
    assert "\x1b" not in found[what].sentence


def test_a_server_key_that_is_missing_or_damaged() -> None:
    line = public_line(generate().public, "broker")
    made = way_of("worker", ("tcp://[::1]:7710", line), generate(), Role.WORKER, "birds")
    assert (made.host, made.port) == ("::1", 7710)
    with pytest.raises(ConfigError, match=r"worker\.server_key"):
        way_of("worker", ("tcp://h:1", ""), generate(), Role.WORKER, "birds")
    with pytest.raises(CfbusError, match=r"worker\.server_key"):
        way_of("worker", ("tcp://h:1", line[:20]), generate(), Role.WORKER, "birds")


def a_monitors(bench: Bench, pair: KeyPair, server: bytes | None = None) -> Way:
    return Way(bench.stats_endpoint, server or bench.pair.public, pair, Role.MONITOR, "birds", "admin")


def test_a_monitor_at_the_statistics(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 60.0)
    assert looked(a_monitors(bench, bench.enrol(Role.MONITOR)))[-1].verdict is Verdict.OK
    waits = last(a_monitors(bench, bench.enrol(Role.MONITOR, KeyState.PENDING)))
    assert "waits for approval" in waits.sentence
    unknown = last(a_monitors(bench, generate()))
    assert "does not know this key" in unknown.sentence
    closed = last(a_monitors(bench, bench.enrol(Role.MONITOR, KeyState.REVOKED)))
    assert "it was revoked or has expired" in closed.sentence
    wrong = last(a_monitors(bench, bench.enrol(Role.MONITOR), generate().public))
    assert "has another key than admin.server_key" in wrong.sentence
    assert {waits.exit_code, unknown.exit_code, closed.exit_code, wrong.exit_code} == {77}
