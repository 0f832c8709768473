"""Who gets in and who is put out: decisions, the ZAP thread over real TCP, the cut."""

from __future__ import annotations

import resource
import select
import socket as tcp
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from cfbus.bus import auth as module
from cfbus.bus import sockets
from cfbus.bus.auth import (
    ZAP_ENDPOINT,
    Authenticator,
    EndlessWatch,
    KeyEntry,
    KeyState,
    KeyTable,
    Reason,
    cut,
    decide,
    peer_address,
    peer_limit,
    self_test,
)
from cfbus.bus.keys import KeyPair, generate, raw_key
from cfbus.bus.messages import Role
from cfbus.bus.sockets import Connection, ConnectionWatch, Inbound, Socket
from cfbus.errors import UnsafeError

DEADLINE = 10.0
DOMAINS = {"bus": {Role.WORKER, Role.WRITER}, "stats": {Role.MONITOR}}
RAW_DOMAINS = {name.encode(): roles for name, roles in DOMAINS.items()}
EXPECTED = {
    KeyState.ACTIVE: (b"200", Reason.ADMITTED),
    KeyState.RETIRING: (b"200", Reason.ADMITTED),
    KeyState.PENDING: (b"300", Reason.PENDING),
    KeyState.SUSPENDED: (b"300", Reason.SUSPENDED),
    KeyState.REVOKED: (b"400", Reason.REVOKED),
    KeyState.EXPIRED: (b"400", Reason.EXPIRED),
}
PUBLIC = generate().public


def entry(public: bytes, role: Role = Role.WORKER, state: KeyState = KeyState.ACTIVE) -> KeyEntry:
    return KeyEntry(public, role, state, "c-1", "test")


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
    assert verdict.status in (b"400", b"500")
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


class Door:
    """A bus port behind an authenticator, and clients that knock."""

    def __init__(self) -> None:
        self.context: sockets.Context = zmq.Context()
        self.pair = generate()
        self.auth = Authenticator()
        self.auth.start(self.context, KeyTable(), DOMAINS)
        self.router, port = sockets.bind_bus(self.context, self.pair, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._watches: list[ConnectionWatch] = []

    def knock(self, pair: KeyPair, endpoint: str | None = None) -> tuple[Socket, ConnectionWatch]:
        client, watch = sockets.connect_bus(self.context, pair, self.pair.public, endpoint or self.endpoint)
        self._watches.append(watch)
        return client, watch

    def enter(self, endpoint: str | None = None) -> tuple[Socket, ConnectionWatch, Inbound]:
        """A worker that is in, and its first message."""
        pair = generate()
        self.auth.swap(KeyTable([entry(pair.public)]))
        client, watch = self.knock(pair, endpoint)
        until(watch, Connection.HANDSHAKE_OK)
        assert sockets.send(client, None, [b"hello"])
        (hello,) = self.receive(1)
        return client, watch, hello

    def receive(self, count: int) -> list[Inbound]:
        arrived: list[Inbound] = []
        end = time.monotonic() + DEADLINE
        while len(arrived) < count:
            assert time.monotonic() < end
            self.router.poll(100)
            arrived += sockets.drain(self.router, 1000, Counter())
        return arrived

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        self.auth.stop()
        self.context.destroy(0)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(sockets, "_RECONNECT_MS", (20, 40))
    made = Door()
    # From here on, for the clients only.
    monkeypatch.setattr(sockets, "_HANDSHAKE_MS", 500)
    yield made
    made.close()
    assert not made.auth.alive
    assert not [each for each in threading.enumerate() if each.name == "zap"]


def until(watch: ConnectionWatch, *wanted: Connection) -> Connection:
    """The first of ``wanted`` that is told."""
    end = time.monotonic() + DEADLINE
    while True:
        assert time.monotonic() < end, f"none of {wanted} came"
        watch.events.poll(50)
        for told in watch.read(time.monotonic()):
            if told in wanted:
                return told


OUTCOMES = (Connection.HANDSHAKE_OK, Connection.REFUSED, Connection.HUNG_UP, Connection.WRONG_SERVER)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (KeyState.ACTIVE, Connection.HANDSHAKE_OK),
        (KeyState.RETIRING, Connection.HANDSHAKE_OK),
        (KeyState.PENDING, Connection.HUNG_UP),
        (KeyState.SUSPENDED, Connection.HUNG_UP),
        (KeyState.REVOKED, Connection.REFUSED),
        (KeyState.EXPIRED, Connection.REFUSED),
    ],
)
def test_what_a_client_is_told_in_each_state(door: Door, state: KeyState, outcome: Connection) -> None:
    pair = generate()
    door.auth.swap(KeyTable([entry(pair.public, state=state)]))
    _, watch = door.knock(pair)
    assert until(watch, *OUTCOMES) is outcome
    assert watch.dead == (outcome is Connection.REFUSED)
    assert door.auth.counts()[EXPECTED[state][1]] >= 1


def test_a_broker_in_trouble_means_later_with_a_new_socket(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REFUSED", b"500")
    _, watch = door.knock(generate())
    assert until(watch, *OUTCOMES, Connection.LATER) is Connection.LATER
    assert watch.dead


def test_a_swap_decides_the_next_handshake(door: Door) -> None:
    pair = generate()
    _, first = door.knock(pair)
    assert until(first, *OUTCOMES) is Connection.REFUSED
    door.auth.swap(KeyTable([entry(pair.public)]))
    _, second = door.knock(pair)
    assert until(second, *OUTCOMES) is Connection.HANDSHAKE_OK
    door.auth.swap(KeyTable())
    _, third = door.knock(pair)
    assert until(third, *OUTCOMES) is Connection.REFUSED
    counts = door.auth.counts()
    assert (counts[Reason.UNKNOWN], counts[Reason.ADMITTED]) == (2, 1)


def test_plain_and_null_never_reach_a_verdict_that_admits(door: Door) -> None:
    for plain in (False, True):
        client: Socket = door.context.socket(zmq.DEALER)
        if plain:
            client.plain_username, client.plain_password = b"admin", b"admin"
        client.connect(door.endpoint)
        client.send(b"let me in")
        assert not door.router.poll(100)
        client.close(0)
    assert door.auth.counts()[Reason.ADMITTED] == 0


def test_malformed_requests_are_counted_and_end_nothing(door: Door) -> None:
    asker: Socket = door.context.socket(zmq.DEALER)
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
    asker.send_multipart([b"", *request(PUBLIC)])
    answers: list[list[bytes]] = []
    while not answers or answers[-1][3] != b"400":
        assert asker.poll(5000)
        answers.append(asker.recv_multipart())
    assert [answer[3] for answer in answers[:-1]] == [b"500"] * (len(answers) - 1)
    assert all(answer[4] == answer[5] == answer[6] == b"" for answer in answers)
    assert door.auth.counts()[Reason.MALFORMED] == len(malformed)
    asker.close(0)
    assert door.auth.alive
    door.enter()[0].close(0)


def test_with_the_handler_gone_nobody_gets_in(door: Door) -> None:
    client, watch, _ = door.enter()
    door.auth.stop()
    assert not door.auth.alive
    pair = generate()
    door.auth.swap(KeyTable([entry(pair.public)]))
    newcomer, refused = door.knock(pair)
    assert until(refused, *OUTCOMES) is not Connection.HANDSHAKE_OK
    assert not sockets.send(newcomer, None, [b"x"])
    # Who was in stays in: their key was checked.
    assert sockets.send(client, None, [b"still here"])
    assert door.receive(1)[0].frames == [b"still here"]
    assert watch.read(time.monotonic()) == []


class BrokenTable(KeyTable):
    def get(self, public: bytes, default: object = None) -> KeyEntry:
        raise RuntimeError("a bug in the handler")


def test_a_handler_that_dies_closes_the_door_behind_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: deaths.append(str(args.exc_value)))
    pair = generate()
    door.auth.swap(BrokenTable())
    _, watch = door.knock(pair)
    assert until(watch, *OUTCOMES) is not Connection.HANDSHAKE_OK
    door.auth.swap(KeyTable([entry(pair.public)]))
    _, again = door.knock(pair)
    assert until(again, *OUTCOMES) is not Connection.HANDSHAKE_OK
    assert deaths == ["a bug in the handler"]
    assert not door.auth.alive


def test_a_second_handler_in_the_same_context_is_refused(door: Door) -> None:
    second = Authenticator()
    with pytest.raises(zmq.ZMQError):
        second.start(door.context, KeyTable(), DOMAINS)
    assert not second.alive
    second.stop()
    assert door.auth.alive


def test_the_end_of_the_context_ends_the_thread() -> None:
    context: sockets.Context = zmq.Context()
    auth = Authenticator()
    auth.start(context, KeyTable(), DOMAINS)
    context.term()
    auth.stop()
    auth.stop()
    assert not auth.alive


# -- the broker's own try ----------------------------------------------------------------------


def test_a_sound_door_passes_its_own_test(door: Door) -> None:
    self_test(door.endpoint, door.pair.public)
    assert door.auth.counts()[Reason.UNKNOWN] == 1


def test_a_door_without_a_handler_fails_it(door: Door) -> None:
    door.auth.stop()
    with pytest.raises(UnsafeError, match="could not see") as caught:
        self_test(door.endpoint, door.pair.public)
    assert caught.value.exit_code == 78


def test_an_open_door_fails_it(door: Door) -> None:
    # What a CURVE server does when ZAP_ENFORCE_DOMAIN was forgotten and nobody handles ZAP.
    context: sockets.Context = zmq.Context()
    router: Socket = context.socket(zmq.ROUTER)
    router.curve_publickey, router.curve_secretkey, router.curve_server = door.pair.public, door.pair.secret, 1
    router.zap_domain = b"bus"
    port = router.bind_to_random_port("tcp://127.0.0.1")
    with pytest.raises(UnsafeError, match="let in a key") as caught:
        self_test(f"tcp://127.0.0.1:{port}", door.pair.public)
    assert caught.value.exit_code == 78
    context.destroy(0)


def test_a_door_that_nobody_opens_fails_it_in_time(door: Door) -> None:
    with tcp.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(UnsafeError, match="could not see"):
            self_test(f"tcp://127.0.0.1:{reserved.getsockname()[1]}", door.pair.public, timeout=0.2)


def test_why_it_hung_up(door: Door) -> None:
    assert module.diagnose(door.endpoint, door.pair.public) is Connection.LATER
    assert module.diagnose(door.endpoint, generate().public) is Connection.WRONG_SERVER
    with tcp.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        assert module.diagnose(endpoint, door.pair.public) is Connection.WRONG_SERVER


# -- putting somebody out ----------------------------------------------------------------------


def test_a_revoked_peer_is_cut_and_does_not_come_back(door: Door) -> None:
    client, watch, hello = door.enter()
    address = peer_address(hello.fd)
    assert address is not None
    door.auth.swap(KeyTable([entry(hello.user_id, state=KeyState.REVOKED)]))
    assert cut(hello.fd, address)
    until(watch, Connection.DISCONNECTED)
    until(watch, Connection.REFUSED)
    assert watch.dead
    assert not sockets.send(client, None, [b"x"])


def test_only_the_one_that_is_meant_is_cut(door: Door) -> None:
    client, watch, hello = door.enter()
    address = peer_address(hello.fd)
    assert address is not None
    assert not cut(hello.fd, address + "0")
    assert sockets.send(client, None, [b"still here"])
    assert door.receive(1)[0].fd == hello.fd
    assert watch.read(time.monotonic()) == []


def test_descriptors_that_are_no_connection(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, tcp.socket() as idle:
        for fd in (file.fileno(), idle.fileno(), -1, 10_000_000):
            assert peer_address(fd) is None
            assert not cut(fd, "anything")
        file.write(b"still open")
        assert idle.fileno() > 0


def test_borrowing_leaks_no_descriptor(door: Door, tmp_path: Path) -> None:
    _, _, hello = door.enter()
    with (tmp_path / "file").open("wb") as file:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(50):
            peer_address(hello.fd)
            peer_address(file.fileno())
            cut(hello.fd, "elsewhere")
            module._fetched(hello.fd)
            module._fetched(file.fileno())
        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("size", [0, 1, 221, 222, 223, 255, 256, 1000, 100_000])
def test_what_is_delivered_is_counted_to_the_byte(door: Door, size: int) -> None:
    client, _, hello = door.enter()
    before = module._fetched(hello.fd)
    for _ in range(20):
        assert sockets.send(client, None, [b"CFB\x01", b"x" * size])
    batch = door.receive(20)
    assert all(each.fd == hello.fd for each in batch)
    expected = sum(module.wire_bytes(len(frame)) for each in batch for frame in each.frames)
    assert module._fetched(hello.fd) - before == expected


class Tap:
    """A pipe of TCP in front of the broker that lets ``allowed`` bytes through, then holds the rest."""

    def __init__(self, endpoint: str, allowed: int) -> None:
        self._listener = tcp.create_server(("127.0.0.1", 0))
        self._target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._allowed = allowed
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.broken = threading.Event()
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()

    def _pump(self) -> None:
        client, _ = self._listener.accept()
        with client, tcp.create_connection(self._target) as server:
            left = self._allowed
            try:
                while True:
                    wanted = [server, client] if left else [server]
                    for ready in select.select(wanted, [], [])[0]:
                        data = ready.recv(min(65536, left) if ready is client else 65536)
                        if not data:
                            return
                        left -= len(data) if ready is client else 0
                        (server if ready is client else client).sendall(data)
            except OSError:
                return
            finally:
                self.broken.set()

    def close(self) -> None:
        self._thread.join(DEADLINE)
        self._listener.close()
        assert not self._thread.is_alive()


def test_a_message_without_end_is_cut(door: Door) -> None:
    tap = Tap(door.endpoint, 12 * 1024 * 1024)
    watch = EndlessWatch(door.router)
    client, link, hello = door.enter(tap.endpoint)
    watch.delivered([hello])
    assert watch.cut_endless() == 0
    # Frames of legal size, of which the last does not come through.
    assert sockets.send(client, None, [b"x" * 500_000] * 32)
    end = time.monotonic() + DEADLINE
    cuts = 0
    while not cuts:
        assert time.monotonic() < end
        watch.delivered(sockets.drain(door.router, 10, Counter()))
        cuts = watch.cut_endless()
    assert cuts == 1
    assert tap.broken.wait(DEADLINE)
    link.close()
    client.close(0)
    tap.close()
    watch.close()


def test_a_busy_honest_peer_is_never_cut(door: Door) -> None:
    watch = EndlessWatch(door.router)
    client, link, hello = door.enter()
    watch.delivered([hello])
    for _ in range(12):
        for _ in range(10):
            assert sockets.send(client, None, [b"CFB\x01", b"h" * 1000, b"x" * 256 * 1024])
        # Unread for as long as the pipe takes more: a broker that is busy elsewhere.
        assert door.router.poll(5000)
        assert watch.cut_endless() == 0
        batch = door.receive(10)
        watch.delivered(batch)
        assert watch.cut_endless() == 0
    assert Connection.DISCONNECTED not in link.read(time.monotonic())
    watch.close()


def test_the_limit_of_open_files_is_raised_to_what_is_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        peers = peer_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert hard == before[1]
        assert soft >= min(before[1], 1024)
        assert 1 <= peers < soft
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_user_ids_are_what_the_key_table_is_asked_for(door: Door) -> None:
    pair = generate()
    table = KeyTable([entry(pair.public)])
    door.auth.swap(table)
    client, watch = door.knock(pair)
    until(watch, Connection.HANDSHAKE_OK)
    assert sockets.send(client, None, [b"x"])
    (message,) = door.receive(1)
    assert table.admitted(message.user_id) == entry(pair.public)
    assert z85.decode(message.user_id) == raw_key(pair.public)
