"""Many CURVE peers on one broker: memory of each, processor time of their heartbeats, and how soon all are back.

Runs by itself: ``python tests/benchmarks/peers.py 1000 5000``. The broker is real; the peers are sockets of a few
processes that say what an idle worker says. After a while the broker is killed and started again on the same port.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # here is a processes.py, which is not the one that is meant

import zmq
from benchmarks.figures import Peers
from benchmarks.processes import TICKS
from processes.support import Command, Nursery, Terminals

from cfbus import config
from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.auth import KeyState
from cfbus.bus.sockets import Connection
from cfbus.bus.wire import decode, encode
from cfbus.runtime import new_id
from cfbus.store.registry import Registry
from cfbus.store.registry_rows import KeyRow

PROCESSES = 4
BEAT_SECONDS = 2.5
MEASURE_SECONDS = 20.0
PATIENCE_SECONDS = 180.0
MONITORS = 100
WATCHED = 1000
"""With so many peers or fewer it is measured what it costs to watch them."""


class Peer:
    """An idle worker, as the wire sees it."""

    def __init__(self, context: sockets.Context, pair: keys.KeyPair, server: bytes, endpoint: str, number: int) -> None:
        self.socket, self.watch = sockets.connect_bus(context, pair, server, endpoint)
        self.welcomes = 0
        self._hello = m.Hello(role=m.Role.WORKER, instance=new_id(), software="t", name=f"p{number}", concurrency=1)

    def changed(self) -> None:
        """Something happened to the connection."""
        if Connection.HANDSHAKE_OK in self.watch.read(time.monotonic()):
            sockets.send(self.socket, None, encode(self._hello))

    def hear(self) -> None:
        """What the broker said; a WELCOME is answered, as a worker does."""
        for frames in sockets.drain_client(self.socket, 100):
            message, _ = decode(frames)
            if isinstance(message, m.Welcome):
                self.welcomes += 1
                sockets.send(self.socket, None, encode(m.Applied(generation=message.generation, outcome="applied")))
            elif isinstance(message, m.Error) and message.code == "hello-first":
                sockets.send(self.socket, None, encode(self._hello))

    def beat(self) -> None:
        """I am here."""
        sockets.send(self.socket, None, encode(m.Heartbeat()))


def play(folder: Path, endpoint: str, server: str, first: int, count: int) -> None:
    """A process of peers: prints how many of its peers have been welcomed how often, whenever that changes."""
    context: sockets.Context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 60_000)
    pairs = json.loads((folder / "pairs.json").read_text())[first : first + count]
    public, _ = keys.parse_public_line(server)
    peers = [
        Peer(context, keys.KeyPair(*(half.encode() for half in pair)), public, endpoint, n)
        for n, pair in enumerate(pairs)
    ]
    poller = zmq.Poller()
    calls = {}
    for peer in peers:
        for source, call in ((peer.socket, peer.hear), (peer.watch.events, peer.changed)):
            poller.register(source, zmq.POLLIN)
            calls[source] = call
    told: tuple[int, int] = (0, 0)
    beat_at = time.monotonic() + BEAT_SECONDS
    while True:
        for source, _ in poller.poll(100):
            calls[source]()
        now = (sum(peer.welcomes > 0 for peer in peers), sum(peer.welcomes > 1 for peer in peers))
        if now != told:
            told = now
            print(json.dumps(now), flush=True)
        if time.monotonic() >= beat_at:
            beat_at += BEAT_SECONDS
            for peer in peers:
                peer.beat()


def enrol(folder: Path, registry: Path, count: int) -> None:
    """A key for each peer."""
    pairs = [keys.generate() for _ in range(count)]
    book = Registry.open(registry, create=True)
    now = time.time()
    owner = book.add_contributor("many", trust=1, who="benchmark", now=now)
    with book.writing() as database:
        for number, pair in enumerate(pairs):
            row = KeyRow(
                pair.public, m.Role.WORKER, KeyState.ACTIVE, owner.contributor_id, f"p{number}", None, None, now
            )
            book.insert_key(database, row, "benchmark", now)
    book.close()
    (folder / "pairs.json").write_text(json.dumps([[pair.public.decode(), pair.secret.decode()] for pair in pairs]))


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def processor(pid: int) -> float:
    """Seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def all_welcomed(players: Sequence[subprocess.Popen[str]], logs: Sequence[Path], count: int, which: int) -> float:
    """Seconds until all have been welcomed so often."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_SECONDS:
        lines = [log.read_text().splitlines() for log in logs]
        seen = sum(json.loads(each[-1])[which] for each in lines if each)
        if seen >= count:
            return time.monotonic() - began
        assert all(player.poll() is None for player in players)
        time.sleep(0.05)
    raise AssertionError(f"{seen} of {count} after {PATIENCE_SECONDS:.0f} s")


def measure(count: int, seconds: float = MEASURE_SECONDS, *, watched: bool = True) -> Peers:
    """So many peers, whose heartbeats are measured for some seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nursery = Nursery(folder)
        bus = Terminals(
            nursery, folder / "bus", "dataset.source=scripted", "dataset.items=10", "captions.engine=scripted"
        )
        enrol(folder, config.load("broker", bus.config, (), {}).config.broker.data_dir / "registry.sqlite", count)
        broker = _serving(bus)
        port = next(
            each.partition("127.0.0.1:")[2] for each in bus.config.read_text().splitlines() if "server: tcp" in each
        )
        server = bus._server_line()
        empty = resident(broker.pid)
        logs = [folder / f"player-{number}.log" for number in range(PROCESSES)]
        share = -(-count // PROCESSES)
        players = []
        for number, log in enumerate(logs):
            words = [str(folder), f"tcp://127.0.0.1:{port}", server, str(number * share), str(share)]
            with log.open("w") as out:
                players.append(subprocess.Popen([sys.executable, __file__, "--play", *words], stdout=out, text=True))
        try:
            joined = all_welcomed(players, logs, count, 0)
            time.sleep(BEAT_SECONDS)
            size, used = resident(broker.pid), processor(broker.pid)
            time.sleep(seconds)
            used = (processor(broker.pid) - used) / seconds
            seen = watch(bus, server, broker.pid) if watched and count <= WATCHED else ""
            broker.signal(signal.SIGKILL)
            broker.process.wait()
            broker = _serving(bus)
            back = all_welcomed(players, logs, count, 1)
        finally:
            for player in players:
                player.kill()
                player.wait()
        broker.signal(signal.SIGTERM)
        broker.ends(0)
    return Peers(
        peers=count, join_seconds=joined, kib_each=(size - empty) / count / 1024, heartbeat_cores=used,
        back_seconds=back, watching=seen,
    )  # fmt: skip


def said(found: Peers) -> str:
    """One line of figures."""
    return (
        f"{found.peers:,} peers: joined in {found.join_seconds:.1f} s; {found.kib_each:.0f} KiB each; heartbeats take"
        f" {found.heartbeat_cores:.1%} of a core; all back {found.back_seconds:.1f} s after a restarted broker"
        f" serves{found.watching}"
    )


def watch(bus: Terminals, server: str, broker: int) -> str:
    """What a full-screen cfbus-top takes, and what a hundred monitors cost the broker, with so many workers there."""
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (40, 120))
    environment = {**os.environ, "TERM": "xterm-256color"}
    words = [sys.executable, "-m", "cfbus.tools.top", "--config", str(bus.config)]
    top = subprocess.Popen(words, stdin=inside, stdout=inside, stderr=inside, env=environment)
    reader = threading.Thread(target=_read_all, args=(terminal,), daemon=True)
    reader.start()
    time.sleep(2 * BEAT_SECONDS)
    used = processor(top.pid)
    time.sleep(MEASURE_SECONDS)
    screen = (processor(top.pid) - used) / MEASURE_SECONDS
    top.terminate()
    top.wait()
    public, _ = keys.parse_public_line(server)
    pair = keys.load(bus.folder / "keys" / "admin.key_secret")
    context: sockets.Context = zmq.Context()
    monitors = [sockets.connect_stats(context, pair, public, bus.stats, [b""]) for _ in range(MONITORS)]
    until = time.monotonic() + BEAT_SECONDS + MEASURE_SECONDS
    used, heard = 0.0, 0
    while time.monotonic() < until:
        used = used or (processor(broker) if time.monotonic() > until - MEASURE_SECONDS else 0.0)
        heard += sum(len(sockets.drain_client(socket, 1000)) for socket, _ in monitors)
        time.sleep(0.05)
    cost = (processor(broker) - used) / MEASURE_SECONDS
    for socket, events in monitors:
        events.close()
        socket.close()
    context.term()
    told = f"; {MONITORS} monitors heard {heard:,} messages, the broker took {cost:.1%} of a core"
    return f"; cfbus-top takes {screen:.1%} of a core{told}"


def _read_all(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 1 << 16):
            pass


def _serving(bus: Terminals) -> Command:
    broker = bus.start("broker")
    broker.says("broker.serves")
    return broker


def main() -> None:
    """The sizes of the command line, or a process of peers."""
    if sys.argv[1:2] == ["--play"]:
        folder, endpoint, server, first, share = sys.argv[2:]
        play(Path(folder), endpoint, server, int(first), int(share))
    for count in map(int, sys.argv[1:] or ["1000", "5000"]):
        print(said(measure(count)), flush=True)


if __name__ == "__main__":
    main()
