"""Joining a bus that runs: invites, races, what goes wrong and how it is told; keys by hand; a broken registry."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from abuse.rig import Counters
from core.samples import SAMPLES
from processes.asking import Asking, Told
from processes.support import Command, Nursery, Terminals, free_port, until

from cfbus import runtime
from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.following import Connection
from cfbus.bus.invite_line import Invite, invite_line, parse_invite
from cfbus.bus.wire import decode, encode
from cfbus.errors import CfbusError, UsedInviteError
from cfbus.tools import asking, joining

SETTINGS = ("dataset.source=scripted", "dataset.items=900", "captions.engine=scripted", "captions.scripted.rate=150")
MINE = ("--set", "dataset.source=scripted", "--set", "dataset.items=900")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    asked = Asking(tmp_path_factory.mktemp("asking"))
    yield asked.told
    asked.close()


class Bus:
    """A bus with a broker, and its maintainer."""

    def __init__(self, nursery: Nursery, folder: Path, told: Told) -> None:
        self._told = told
        self.terminals = Terminals(nursery, folder / "bus", *SETTINGS)
        self.broker: Command = self.terminals.start("broker")
        self.broker.says("broker.serves")

    def admin(self, *arguments: str | Path, code: int = 0) -> str:
        return self._told(code, "cfbus-admin", "--config", self.terminals.config, *arguments)

    def rows(self, *arguments: str) -> list[dict[str, str]]:
        said = json.loads(self.admin(*arguments, "--json"))
        found: list[dict[str, str]] = said["rows"] if isinstance(said, dict) else said
        return found

    def invite(self, folder: Path, *arguments: str) -> Path:
        """The file of a new invite for ada."""
        file = folder / "invite"
        self.admin("invite", "ada", "--out", file, *arguments)
        return file


@pytest.fixture
def bus(nursery: Nursery, tmp_path: Path, told: Told) -> Iterator[Bus]:
    made = Bus(nursery, tmp_path, told)
    yield made
    if made.broker.process.poll() is None:
        made.broker.signal(signal.SIGTERM)
        made.broker.ends(0)


def join(told: Told, code: int, line: Path | str, folder: Path, *more: str) -> str:
    return told(code, "cfbus", "join", f"@{line}" if isinstance(line, Path) else line, "--yes", "--dir", folder, *more)


def test_from_an_invite_to_a_daemon_that_starts(bus: Bus, told: Told, tmp_path: Path) -> None:
    file = bus.invite(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    invite = parse_invite(file.read_text())
    said = join(told, 0, file, tmp_path / "me", "--name", "night gpu", *MINE)
    for words in ("project         scripted", invite.facts.endpoint, keys.fingerprint(invite.facts.server), "worker",
                  "the broker lets this host in", f"cfbus-gpu --config {tmp_path}/me/gpu.yaml"):  # fmt: skip
        assert words in said
    key_file = tmp_path / "me" / "keys" / "worker.key_secret"
    pair = keys.load(key_file)
    (row,) = [each for each in bus.rows("keys", "list") if each["contributor"] == "ada"]
    assert (row["fingerprint"], row["name"], row["role"]) == (keys.fingerprint(pair.public), "night gpu", "worker")
    (log,) = [each for each in bus.rows("audit") if each["who"].startswith("invite ")]
    assert json.loads(log["arguments"])["key"] == row["fingerprint"]
    # Neither secret is in what was said, written, logged or kept; the registry has the invite's public half.
    secrets = [pair.secret, invite.pair.secret, file.read_text().strip().rpartition(".")[0].encode()]
    places = [*(tmp_path / "bus").rglob("*"), tmp_path / "me" / "gpu.yaml", bus.broker.log]
    kept = {}
    for place in places:
        with suppress(FileNotFoundError, IsADirectoryError):  # SQLite removes some of its files when it likes
            kept[place] = place.read_bytes()
    for secret in secrets:
        assert secret.decode() not in said
        assert not [place for place, data in kept.items() if secret in data]
    # The daemon finds its way with what was written.
    worker = bus.terminals._nursery.start("cfbus.daemons.gpu", "--config", tmp_path / "me" / "gpu.yaml")
    worker.says("bus.welcomed")
    worker.signal(signal.SIGTERM)
    worker.ends(0)


def test_a_join_that_was_cut_off_is_repeated(bus: Bus, told: Told, tmp_path: Path) -> None:
    file = bus.invite(tmp_path)
    me = tmp_path / "me"
    join(told, 0, file, me)
    configured = (me / "gpu.yaml").read_text()
    # As if it had died before the last step.
    (me / "gpu.yaml").unlink()
    (me / "gpu.yaml.new").write_text("half")
    join(told, 0, file, me)
    assert (me / "gpu.yaml").read_text() == configured
    assert len([each for each in bus.rows("keys", "list") if each["contributor"] == "ada"]) == 1
    assert "has joined a bus" in join(told, 2, file, me)


def test_each_thing_that_goes_wrong_has_its_sentence_and_code(bus: Bus, told: Told, tmp_path: Path) -> None:
    file = bus.invite(tmp_path)
    good = file.read_text().strip()
    invite = parse_invite(good)

    def fails(code: int, line: str, *words: str) -> None:
        broken = tmp_path / "broken"
        broken.write_text(line)
        broken.chmod(0o600)
        said = join(told, code, broken, tmp_path / "nowhere")
        assert all(word in said for word in words), said
        assert good not in said
        assert not (tmp_path / "nowhere" / "gpu.yaml").exists()

    fails(65, good[:-3] + "xyz", "damaged in copying")
    fails(2, "hello", "not an invite")
    facts = invite.facts
    nobody = f"tcp://127.0.0.1:{free_port()}"
    fails(69, _line(invite, endpoint=nobody), f"{nobody} cannot be reached", "Are you online")
    fails(68, _line(invite, server=keys.generate().public), "is not the broker of 'scripted'")
    fails(68, _line(invite, project="cats"), "not the one that the invite is for")
    fails(77, invite_line(Invite(facts, invite.expires, keys.generate())), "does not know this invite")
    bus.admin("invites", "revoke", keys.fingerprint(invite.pair.public))
    fails(77, good, "does not know this invite")
    used = _another(bus, tmp_path, "used")
    join(told, 0, used, tmp_path / "first")
    fails(67, used.read_text(), "could be used once, and it was")
    short = _another(bus, tmp_path, "short", "--expires", "1s")
    _grow_old(bus, short)
    fails(66, short.read_text(), "This invite ended at")


def _another(bus: Bus, folder: Path, name: str, *arguments: str) -> Path:
    (folder / name).mkdir()
    return bus.invite(folder / name, *arguments)


def _grow_old(bus: Bus, file: Path) -> None:
    """The leeway is over, as the registry sees it."""
    public = parse_invite(file.read_text()).pair.public.decode()
    path = bus.terminals.folder / "broker" / "registry.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE invites SET not_after = not_after - 400 WHERE public = ?", (public,))
    database.close()


def _line(invite: Invite, endpoint: str = "", server: bytes = b"", project: str = "") -> str:
    facts = invite.facts
    changed = type(facts)(endpoint or facts.endpoint, server or facts.server, project or facts.project, facts.role)
    return invite_line(Invite(changed, invite.expires, invite.pair))


def test_of_eight_who_race_for_one_use_one_wins(bus: Bus, tmp_path: Path) -> None:
    invite = parse_invite(bus.invite(tmp_path).read_text())
    start = threading.Barrier(8)
    won: list[bytes] = []
    lost: list[CfbusError] = []

    def one() -> None:
        pair = keys.generate()
        start.wait()
        try:
            joining.enrol(invite, pair.public, "racer")
        except CfbusError as error:
            lost.append(error)
        else:
            won.append(pair.public)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert [type(error) for error in lost] == [UsedInviteError] * 7
    entered = [each["fingerprint"] for each in bus.rows("keys", "list") if each["contributor"] == "ada"]
    assert entered == [keys.fingerprint(won[0])]


def test_the_key_of_an_invite_may_do_nothing_but_enrol(bus: Bus, tmp_path: Path) -> None:
    invite = parse_invite(bus.invite(tmp_path).read_text())
    context: sockets.Context = zmq.Context()
    facts = invite.facts
    admin = keys.load(bus.terminals.folder / "keys" / "admin.key_secret")
    counters = Counters(admin, facts.server, bus.terminals.stats)
    client, watch = sockets.connect_bus(context, invite.pair, facts.server, facts.endpoint)
    try:
        before = counters.read()
        others = set(m.MESSAGES) - {m.Enrol}
        for kind in others:
            frames = encode(SAMPLES[kind], b"")
            until("it is connected", lambda frames=frames: sockets.send(client, None, frames))  # type: ignore[misc]
        # It is told so once a second only; each is counted.
        seen = "message.not-allowed"
        until("all are refused", lambda: counters.read().get(seen, 0) - before.get(seen, 0) == len(others))
        assert client.poll(10_000)
        said, _ = decode(sockets.drain_client(client, 1)[0])
        assert isinstance(said, m.Error)
        assert said.code == "not-allowed"
    finally:
        counters.close()
        watch.close()
        client.close(0)
        context.term()
    assert json.loads(bus.admin("status", "--json"))["workers"] == 0
    # Nor does it reach the statistics.
    assert joining.subscribed(bus.terminals.stats, facts.server, invite.pair) is Connection.REFUSED


def test_a_key_that_needs_approval_waits_for_it(bus: Bus, told: Told, tmp_path: Path) -> None:
    said = join(told, 0, bus.invite(tmp_path, "--approve"), tmp_path / "me", *MINE)
    mark = keys.fingerprint(keys.load_public(tmp_path / "me" / "keys" / "worker.key"))
    assert f"cfbus-admin keys approve {mark}" in said
    worker = bus.terminals._nursery.start("cfbus.daemons.gpu", "--config", tmp_path / "me" / "gpu.yaml")
    worker.says("the key awaits approval or is suspended")
    bus.admin("keys", "approve", mark)
    worker.says("bus.welcomed")
    worker.signal(signal.SIGTERM)
    worker.ends(0)


def test_a_key_that_is_ended_now_is_out_at_once(bus: Bus, told: Told, tmp_path: Path) -> None:
    join(told, 0, bus.invite(tmp_path), tmp_path / "me", *MINE)
    mark = keys.fingerprint(keys.load_public(tmp_path / "me" / "keys" / "worker.key"))
    worker = bus.terminals._nursery.start("cfbus.daemons.gpu", "--config", tmp_path / "me" / "gpu.yaml")
    worker.says("bus.welcomed")
    put_out = json.loads(bus.admin("keys", "expire", mark, "now", "--json"))
    assert (put_out["keys_closed"], put_out["connections_cut"]) == (1, 1)
    assert "it said: this key has ended." in worker.ends(77)
    bus.admin("keys", "expire", mark, "10d")
    (row,) = bus.rows("keys", "show", mark)
    assert (row["state"], row["mark"]) == ("active", "ends in 10 days")
    worker = bus.terminals._nursery.start("cfbus.daemons.gpu", "--config", tmp_path / "me" / "gpu.yaml")
    worker.says("key.ends-soon")
    worker.signal(signal.SIGTERM)
    worker.ends(0)


def test_the_doctor_follows_a_key_through_its_life(bus: Bus, told: Told, tmp_path: Path) -> None:
    join(told, 0, bus.invite(tmp_path, "--approve"), tmp_path / "me", *MINE)
    mark = keys.fingerprint(keys.load_public(tmp_path / "me" / "keys" / "worker.key"))

    def doctor(code: int, *more: str) -> dict[str, dict[str, str]]:
        said = told(code, "cfbus", "doctor", "--config", tmp_path / "me" / "gpu.yaml", "--json", *more)
        return {each["what"]: each for each in map(json.loads, said.splitlines())}

    assert "waits for approval" in doctor(77, "--no-rate")["this key"]["sentence"]
    bus.admin("keys", "approve", mark)
    found = doctor(0, "--set", "captions.engine=scripted")
    assert {each["verdict"] for each in found.values()} == {"ok"}
    assert found["project"]["sentence"] == "The bus is scripted's."
    assert "in 90 days" in found["key's end"]["sentence"]
    assert "agrees" in found["clock"]["sentence"]
    assert "images a second" in found["rate"]["sentence"]
    assert doctor(68, "--no-rate", "--set", "dataset.name=cats")["project"]["verdict"] == "bad"
    bus.admin("keys", "revoke", mark)
    assert "it was revoked or has expired" in doctor(77, "--no-rate")["this key"]["sentence"]
    stranger = tmp_path / "stranger.key_secret"
    keys.save(keys.generate(), stranger, "stranger")
    unknown = doctor(77, "--no-rate", "--set", f"worker.key_file={stranger}")
    assert "does not know this key" in unknown["this key"]["sentence"]


def test_a_key_by_hand_and_a_join_file(bus: Bus, told: Told, tmp_path: Path) -> None:
    said = told(0, "cfbus", "keygen", tmp_path / "mine")
    line = said.partition("maintainer): ")[2].strip()
    bus.admin("keys", "add", line, "--contributor", "bob", "--out", tmp_path / "join")
    assert (tmp_path / "join").read_text().startswith("# ")
    key = tmp_path / "mine.key_secret"
    said = told(0, "cfbus", "join", "--file", tmp_path / "join", "--key", key, "--yes", "--dir", tmp_path / "me")
    assert "the broker lets it in" in said
    assert str(key) in (tmp_path / "me" / "gpu.yaml").read_text()
    stranger = tmp_path / "stranger.key_secret"
    keys.save(keys.generate(), stranger, "stranger")
    arguments = ["--file", tmp_path / "join", "--key", stranger, "--yes", "--dir", tmp_path / "other"]
    assert "does not know this key" in told(77, "cfbus", "join", *arguments)
    shutil.copy(tmp_path / "join", tmp_path / "cut")
    (tmp_path / "cut").write_text((tmp_path / "join").read_text().strip()[:-4])
    assert "damaged in copying" in told(65, "cfbus", "join", "--file", tmp_path / "cut", "--key", key, "--yes")


def test_a_monitor_is_tried_at_the_statistics(bus: Bus, told: Told, tmp_path: Path) -> None:
    said = join(told, 0, bus.invite(tmp_path, "--role", "monitor"), tmp_path / "me")
    assert f"cfbus-top --config {tmp_path}/me/top.yaml" in said
    told(0, "cfbus-top", "--config", tmp_path / "me" / "top.yaml", "--once")
    told(0, "cfbus", "doctor", "top", "--config", tmp_path / "me" / "top.yaml")


def test_without_a_broker_the_file_is_worked_on(bus: Bus, told: Told, tmp_path: Path) -> None:
    bus.broker.signal(signal.SIGTERM)
    bus.broker.ends(0)
    said = bus.admin("--offline", "invite", "bob", "--endpoint", "tcp://bus.example.org:7710")
    invite = parse_invite(said)
    assert (invite.facts.project, invite.facts.endpoint) == ("scripted", "tcp://bus.example.org:7710")
    data = bus.terminals.folder / "broker"
    listed = json.loads(bus.admin("--data-dir", data, "invites", "list", "--json"))
    assert [each["fingerprint"] for each in listed] == [keys.fingerprint(invite.pair.public)]
    assert "asked of a broker" in bus.admin("--offline", "pause", code=2)


def test_a_registry_that_is_replaced_by_garbage_puts_nobody_out(bus: Bus, tmp_path: Path) -> None:
    path = bus.terminals.folder / "broker" / "registry.sqlite"
    good = tmp_path / "good"
    bus.admin("keys", "list")
    garbage = path.with_name("garbage")
    garbage.write_bytes(b"\xff" * 50_000)
    garbage.chmod(0o600)
    path.rename(good)
    garbage.rename(path)
    bus.broker.signal(signal.SIGHUP)
    bus.broker.says("keys.not-reloaded")
    # The admin is still let in, and told what is wrong.
    assert json.loads(bus.admin("status", "--json"))["dataset"] == "scripted"
    assert "registry.sqlite" in bus.admin("keys", "list", code=2)
    path.unlink()
    good.rename(path)
    bus.broker.signal(signal.SIGHUP)
    until("the registry is taken up again", lambda: "admin" in bus.admin("keys", "list"))


def test_an_admins_answer_that_never_comes_is_told_with_why(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 3.0)
    bus.admin("keys", "suspend", "gpu-0")
    pair = keys.load(bus.terminals.folder / "keys" / "gpu-0.key_secret")
    line = next(each for each in bus.terminals.config.read_text().splitlines() if "server_key:" in each)
    server = runtime.server_key(line.partition("server_key:")[2].strip(), "worker")
    endpoint = next(each for each in bus.terminals.config.read_text().splitlines() if "  server:" in each)
    with asking.Conversation(endpoint.partition("server:")[2].strip(), server, pair, None) as talk:
        talk.until_connected(60.0)
        assert "suspended" in str(talk.unanswered("worker"))
