"""Messages over real TCP and real CURVE: what goes through, what is dropped, what a full pipe says."""

from __future__ import annotations

import errno
import time

import pytest
import zmq
from bus_harness import Bench, drained, eventually, until
from processes.support import free_port

from cfbus.bus import sockets
from cfbus.bus.messages import MAX_FRAME_BYTES, Role
from cfbus.bus.sockets import Connection


def test_an_oversize_frame_ends_only_its_connection(bench: Bench) -> None:
    bad, bad_watch = bench.worker()
    good, good_watch = bench.worker()
    assert sockets.send(bad, None, [b"x" * (MAX_FRAME_BYTES + 1)])
    until(bad_watch, Connection.DISCONNECTED)
    assert sockets.send(good, None, [b"y" * MAX_FRAME_BYTES])
    assert [len(each) for each in bench.receive()[0].frames] == [MAX_FRAME_BYTES]
    assert good_watch.read(time.monotonic()) == []
    until(bad_watch, Connection.HANDSHAKE_OK)


def test_an_oversize_answer_kills_the_client_and_the_watch_sees_it(bench: Bench) -> None:
    client, watch = bench.worker()
    assert sockets.send(client, None, [b"hello"])
    (hello,) = bench.receive()
    assert sockets.send(bench.router, hello.routing_id, [b"x" * (MAX_FRAME_BYTES + 1)])
    until(watch, Connection.DISCONNECTED)
    alive = not watch.dead
    assert alive
    assert watch.read(time.monotonic() + 60) == [Connection.WRONG_SERVER]
    assert watch.dead
    assert watch.read(time.monotonic() + 120) == []


def test_drain_takes_no_more_than_its_limit(bench: Bench) -> None:
    client, _ = bench.worker()
    for number in range(10):
        assert sockets.send(client, None, [b"%d" % number])
    assert bench.router.poll(60_000)
    # All ten lie in the pipe, one beyond the first drain would be too many.
    eventually(lambda: bool(bench.router.poll(0)))
    taken = drained(bench.router, 10)
    assert [each.frames for each in taken] == [[b"%d" % number] for number in range(10)]
    assert sockets.drain(bench.router, 3, bench.dropped) == []


def test_a_chosen_routing_id_never_comes_up(bench: Bench) -> None:
    client = bench.adopt(zmq.DEALER)
    pair = bench.enrol()
    client.curve_publickey, client.curve_secretkey, client.curve_serverkey = (
        pair.public,
        pair.secret,
        bench.pair.public,
    )
    client.routing_id = b"broker"
    client.connect(bench.bus_endpoint)
    client.send(b"x")
    assert bench.router.poll(60_000)
    assert sockets.drain(bench.router, 10, bench.dropped) == []
    assert bench.dropped == {"chosen-routing-id": 1}


def test_messages_without_a_vouched_key_never_come_up(bench: Bench) -> None:
    open_router = bench.adopt(zmq.ROUTER)
    port = open_router.bind_to_random_port("tcp://127.0.0.1")
    client = bench.adopt(zmq.DEALER)
    client.connect(f"tcp://127.0.0.1:{port}")
    client.send_multipart([b"CFB\x01", b"x"])
    assert open_router.poll(60_000)
    assert sockets.drain(open_router, 10, bench.dropped) == []
    assert bench.dropped == {"no-user-id": 1}


def test_a_message_of_too_many_frames_is_dropped_whole(bench: Bench) -> None:
    client, _ = bench.worker()
    assert sockets.send(client, None, [b"x"] * (sockets.FRAMES_LIMIT + 1))
    assert sockets.send(client, None, [b"y"] * sockets.FRAMES_LIMIT)
    assert [each.frames for each in bench.receive()] == [[b"y"] * sockets.FRAMES_LIMIT]
    assert bench.dropped == {"too-many-frames": 1}


def test_a_large_frame_is_passed_on_as_received(bench: Bench) -> None:
    worker, _ = bench.worker()
    writer, _ = bench.worker()
    assert sockets.send(writer, None, [b"hello"])
    (hello,) = bench.receive()
    big = bytes(range(256)) * 1024
    assert sockets.send(worker, None, [big, big[:-1]])
    (result,) = bench.receive()
    assert sockets.send(bench.router, hello.routing_id, [b"relay", *result.frames])
    kept = [bytes(each) for each in result.frames]
    assert writer.poll(60_000)
    ((_, *relayed),) = sockets.drain_client(writer, 1)
    assert [bytes(each) for each in relayed] == [big, big[:-1]] == kept


def test_a_part_of_a_received_frame_can_be_sent(bench: Bench) -> None:
    client, _ = bench.worker()
    big = bytes(range(256)) * 1024
    assert sockets.send(client, None, [big])
    (message,) = bench.receive()
    view = message.frames[0]
    assert isinstance(view, memoryview)
    assert sockets.send(bench.router, message.routing_id, [view[1 : 1 + 40_000], view[:10]])
    assert client.poll(60_000)
    assert [bytes(each) for each in sockets.drain_client(client, 1)[0]] == [big[1:40_001], big[:10]]


def test_nothing_is_sent_to_a_peer_that_is_not_there(bench: Bench) -> None:
    assert not sockets.send(bench.router, b"\x00none", [b"a", b"b"])
    client, watch = bench.worker()
    assert sockets.send(client, None, [b"hello"])
    (hello,) = bench.receive()
    watch.close()
    client.close(0)
    eventually(lambda: not sockets.send(bench.router, hello.routing_id, [b"a", b"b"]))
    other, _ = bench.worker()
    assert sockets.send(other, None, [b"still", b"whole"])
    assert bench.receive()[0].frames == [b"still", b"whole"]


def test_a_full_pipe_is_said_and_never_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_SEND_HWM", 4)
    monkeypatch.setattr(sockets, "_RECEIVE_HWM", 4)
    router, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", free_port())
    client, watch = bench.dial(bench.enrol(), f"tcp://127.0.0.1:{port}")
    until(watch, Connection.HANDSHAKE_OK)
    payload = b"x" * 500_000
    # Nobody reads: the kernel and both pipes take some, then it is said.
    sent = 0
    while sockets.send(client, None, [b"%d" % sent, payload]):
        sent += 1
        assert sent < 1000
    got = drained(router, sent)
    assert [each.frames[0] for each in got] == [b"%d" % number for number in range(sent)]
    assert all(len(each.frames) == 2 for each in got)
    router.close(0)


def test_other_failures_of_send_are_not_hidden(bench: Bench) -> None:
    subscriber = bench.adopt(zmq.SUB)
    with pytest.raises(zmq.ZMQError) as caught:
        sockets.send(subscriber, None, [b"x"])
    assert caught.value.errno == errno.ENOTSUP


def test_stats_reach_a_monitor_and_only_the_topics_it_wants(bench: Bench) -> None:
    pair = bench.enrol(Role.MONITOR)
    client, watch = bench.keep(
        sockets.connect_stats(bench.context, pair, bench.pair.public, bench.stats_endpoint, [b"status"])
    )
    until(watch, Connection.HANDSHAKE_OK)
    assert bench.stats.poll(60_000)
    assert sockets.drain_client(bench.stats, 10) == [[b"\x01status"]]
    assert sockets.send(bench.stats, None, [b"activity", b"1"])
    assert sockets.send(bench.stats, None, [b"status", b"2"])
    assert client.poll(60_000)
    assert sockets.drain_client(client, 10) == [[b"status", b"2"]]


@pytest.mark.parametrize(("role", "domain"), [(Role.WORKER, "stats"), (Role.MONITOR, "bus")])
def test_a_role_stays_at_its_own_port(bench: Bench, role: Role, domain: str) -> None:
    pair = bench.enrol(role)
    if domain == "bus":
        _, watch = bench.dial(pair)
    else:
        _, watch = bench.keep(
            sockets.connect_stats(bench.context, pair, bench.pair.public, bench.stats_endpoint, [b""])
        )
    until(watch, Connection.REFUSED)
    assert watch.dead


TWO_QUEUES = 2000
"""So many messages lie between two sockets of libzmq's usual lengths, and the next one waits."""


def test_a_monitor_that_nobody_reads_stops_nothing(bench: Bench) -> None:
    noisy = bench.adopt(zmq.ROUTER)
    unread = sockets.monitor(noisy, zmq.EVENT_ALL)
    for _ in range(1500):
        noisy.bind("tcp://127.0.0.1:*")
        noisy.unbind(noisy.getsockopt_string(zmq.LAST_ENDPOINT))
    told = 0
    while told <= TWO_QUEUES and unread.poll(10_000):
        unread.recv_multipart()
        told += 1
    assert told > TWO_QUEUES, "at most what queues of the usual length hold: whoever tells more would stand still"
    noisy.disable_monitor()
    unread.close(0)
