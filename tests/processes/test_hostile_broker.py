"""A worker and a broker that means it no good: what it may read, run and ask is said by the worker's own host alone."""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from processes.support import PATIENCE_SECONDS, Command, Nursery, Terminals, until
from processes.tables import make_pictures

from cfbus.bus import auth, keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import Model
from cfbus.bus.wire import decode, encode, encode_table

SLOT = m.Slot(name="caption", prompt="{x.__class__} {caption.__globals__} {0} %s ${HOME}", prompt_id="0" * 16)


def spec(**changed: object) -> m.Spec:
    said = {"hash": "0" * 16, "engine": "palette", "pixel_budget": 1 << 20, "max_pixels": 1 << 26, "slots": (SLOT,)}
    return m.Spec.model_validate({**said, **changed})


class Hostile:
    """Has the broker's key and says what the test wants."""

    def __init__(self, worker: bytes) -> None:
        self.pair = keys.generate()
        self._context: sockets.Context = zmq.Context()
        self._door = auth.Authenticator()
        entry = auth.KeyEntry(worker, m.Role.WORKER, auth.KeyState.ACTIVE, "", "")
        self._door.start(self._context, auth.KeyTable([entry]), {sockets.BUS_DOMAIN: {m.Role.WORKER}})
        self._socket, self.port = sockets.bind_bus(self._context, self.pair, "127.0.0.1", 0)
        self._to = b""
        self._inbox: deque[sockets.Inbound] = deque()
        self.heard: list[m.Message] = []

    def hear(self, kind: type[m.Message], when: Callable[[m.Message], bool] = lambda _: True) -> m.Message:
        """The next message of this kind for which this holds; heartbeats are answered meanwhile, and what came behind
        it is there for the next call."""

        def look() -> m.Message | None:
            self._inbox += sockets.drain(self._socket, 100, Counter())
            while self._inbox:
                inbound = self._inbox.popleft()
                self._to = inbound.routing_id
                message, _ = decode(inbound.frames)
                self.heard.append(message)
                if isinstance(message, m.Heartbeat):
                    self.say(m.Heartbeat())
                if isinstance(message, kind) and when(message):
                    return message
            return None

        return until(lambda: f"{kind.TAG}: {self.heard[-5:]}", look)

    def say(self, message: m.Message, payload: bytes = b"") -> None:
        assert sockets.send(self._socket, self._to, encode(message, payload))

    def welcome(self, wanted: m.Spec) -> None:
        self.say(
            m.Welcome(
                software="test", store_id="1" * 16, dataset="pictures", heartbeat_seconds=5.0, lease_seconds=60.0,
                window=1 << 30, generation=len(self.heard) + 1, spec=wanted,
            )
        )  # fmt: skip

    def grant(self, lease: str, shard: str, rows: list[tuple[str, bytes]]) -> None:
        columns: dict[str, list[object]] = {
            "key": [key for key, _ in rows],
            "locator": [locator for _, locator in rows],
        }
        grant = m.Grant(
            lease=lease, pass_number=1, shard=0, shard_name=shard, start=0, end=len(rows), slots=("caption",),
            backup=False, ttl=60.0, window=1 << 30,
        )  # fmt: skip
        self.say(grant, encode_table(build("listing", len(rows), columns)))

    def close(self) -> None:
        self._socket.close(0)
        self._door.stop()
        self._context.term()


class Lent:
    """A host that lends its processor to that broker, with pictures in a folder and a secret beside them."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self.pictures = folder / "pictures"
        make_pictures(self.pictures, 0, 3)
        (folder / "secret.jpg").write_bytes((self.pictures / "00001.jpg").read_bytes())
        self.bus = Terminals(nursery, folder / "bus", "captions.engine=palette", images=self.pictures)
        self.broker = Hostile(keys.load(self.bus.folder / "keys" / "gpu-0.key_secret").public)
        self.worker: Command | None = None

    def start(self, *arguments: str) -> None:
        line = keys.public_line(self.broker.pair.public, "broker")
        server = f"worker.server=tcp://127.0.0.1:{self.broker.port}"
        self.worker = self.bus.start("gpu-0", "--set", server, "--set", f"worker.server_key={line}", *arguments)
        self.broker.hear(m.Hello)


@pytest.fixture
def lent(nursery: Nursery, tmp_path: Path) -> Iterator[Lent]:
    made = Lent(nursery, tmp_path)
    yield made
    if made.worker is not None:
        made.worker.signal(signal.SIGKILL)
        made.worker.process.wait(PATIENCE_SECONDS)
    made.broker.close()


BAD = [
    "../secret.jpg", "../../etc/passwd", "/etc/passwd", "pipe:id", "file:///etc/passwd", "http://169.254.169.254/x.jpg",
    "s3://bucket/x.jpg", "hf://org/set/x.jpg", "below/../../secret.jpg", "00001.jpg\0/../../secret.jpg", "", "|id",
]  # fmt: skip


def test_only_what_the_hosts_own_configuration_names_is_read(lent: Lent) -> None:
    lent.start()
    lent.broker.welcome(spec())
    lent.broker.hear(m.Lease)
    for number, where in enumerate(("locator", "key")):
        rows = [(f"k{n}", path.encode()) if where == "locator" else (path or "k", b"") for n, path in enumerate(BAD)]
        lease = f"{number:016x}"
        lent.broker.grant(lease, "pictures-00000", rows)
        failed: dict[int, str] = {}
        while len(failed) < len(BAD):
            message = lent.broker.hear(m.Failed, lambda each, lease=lease: each.lease == lease)  # type: ignore[misc]
            assert isinstance(message, m.Failed)
            failed |= {item.index: item.reason for item in message.items}
            lent.broker.say(m.Ack(results=(), window=1 << 30))
        assert set(failed.values()) <= {"outside", "vanished", "unreadable"}, failed
    assert not [each for each in lent.broker.heard if isinstance(each, m.Result)]
    lent.broker.grant("f" * 16, "pictures-00000", [("00001.jpg", b"")])
    result = lent.broker.hear(m.Result)
    assert isinstance(result, m.Result)


@pytest.mark.parametrize("shard", ["../../etc", "/etc-00000", "pipe:id", "other-00000", "pictures"])
def test_a_shard_that_is_none_of_the_hosts(lent: Lent, shard: str) -> None:
    lent.start()
    lent.broker.welcome(spec())
    lent.broker.hear(m.Lease)
    lent.broker.grant("a" * 16, shard, [("00001.jpg", b"")])
    message = lent.broker.hear(m.Failed)
    assert isinstance(message, m.Failed)
    assert message.items[0].fault == "worker"


@pytest.mark.parametrize(
    "wanted", [{"engine": "vllm", "model": Model(name="evil/model", revision="main")}, {"engine": "scripted"}]
)
def test_another_engine_is_refused_with_the_setting_that_would_allow_it(lent: Lent, wanted: dict[str, object]) -> None:
    lent.start()
    lent.broker.welcome(spec(**wanted))
    answer = lent.broker.hear(m.Applied)
    assert isinstance(answer, m.Applied)
    assert answer.outcome == "refused"
    assert str(wanted["engine"]) in answer.reason
    assert lent.worker is not None
    assert f"--set captions.engine={wanted['engine']}" in lent.worker.ends(2)


def test_a_template_is_text_and_nothing_else(lent: Lent) -> None:
    lent.start("--log-level", "debug")
    lent.broker.welcome(spec())
    lent.broker.hear(m.Lease)
    lent.broker.grant("b" * 16, "pictures-00000", [("00001.jpg", b"")])
    lent.broker.hear(m.Result)
    assert lent.worker is not None
    assert "Traceback" not in lent.worker.said
